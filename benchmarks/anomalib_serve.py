"""The peer's side of serve.py: anomalib's TorchInferencer behind FastAPI.

python anomalib_serve.py MODEL.pt PORT THREADS

As one writes it: a function that FastAPI calls in its thread pool, an image a call.
"""

import os
import sys

os.environ["TRUST_REMOTE_CODE"] = "1"


def main(path: str, port: str, threads: str) -> None:
    import torch
    import uvicorn
    from anomalib.deploy import TorchInferencer
    from fastapi import FastAPI, UploadFile
    from PIL import Image

    torch.set_num_threads(int(threads))
    inferencer, app = TorchInferencer(path, device="cpu"), FastAPI()

    @app.post("/v1/predict")
    def predict(image: UploadFile):
        with torch.no_grad():
            found = inferencer.predict(Image.open(image.file).convert("RGB"))
        return {
            "results": [
                {
                    "score": found.pred_score.item(),
                    "verdict": bool(found.pred_label.item()),
                }
            ]
        }

    @app.get("/readyz")
    def readyz():
        return {"status": "ready"}

    uvicorn.run(app, port=int(port), log_level="warning", http="h11", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
