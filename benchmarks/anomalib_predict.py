"""The peer's side of predict.py: anomalib's TorchInferencer.

python anomalib_predict.py export BANK.npy MODEL_FOLDER [torch|onnx]
python anomalib_predict.py time MODEL.pt FILES.json OUT.json THREADS
"""

import json
import os
import statistics
import sys
import time

os.environ["TRUST_REMOTE_CODE"] = "1"


def export(bank: str, folder: str, kind: str = "torch") -> None:
    """A PatchCore with the given memory bank, as anomalib exports it."""
    import numpy as np
    import torch
    from anomalib.models import Patchcore
    from anomalib_elpv import load_model

    model = Patchcore(
        backbone="tf_efficientnet_lite0",
        layers=("blocks.2", "blocks.4"),
        pre_trained=False,
        num_neighbors=1,
        pre_processor=Patchcore.configure_pre_processor(image_size=(224, 224)),
        visualizer=False,
        evaluator=False,
    )
    filled = load_model()
    filled.memory_bank = torch.from_numpy(np.load(bank))
    model.model = filled
    print(getattr(model, f"to_{kind}")(folder))


def measure(path: str, files: str, out: str, threads: str) -> None:
    start = time.perf_counter()
    import torch
    from anomalib.data.utils import read_image
    from anomalib.deploy import TorchInferencer

    torch.set_num_threads(int(threads))
    seconds = {"import": time.perf_counter() - start}
    files = json.load(open(files))
    start = time.perf_counter()
    inferencer = TorchInferencer(path, device="cpu")
    seconds["load"] = time.perf_counter() - start
    with torch.no_grad():
        start = time.perf_counter()
        inferencer.predict(files[0])
        seconds["first"] = time.perf_counter() - start
        one = []
        for file in files:
            start = time.perf_counter()
            inferencer.predict(file)
            one.append(time.perf_counter() - start)
        start = time.perf_counter()
        for first in range(0, len(files), 16):
            batch = [read_image(file, as_tensor=True) for file in files[first:][:16]]
            inferencer.predict(torch.stack(batch))
        seconds["batched"] = (time.perf_counter() - start) / len(files)
        scores = [inferencer.predict(file).pred_score.item() for file in files[:20]]
    seconds["one"] = statistics.median(one)
    json.dump({**seconds, "scores": scores, "torch": torch.__version__}, open(out, "w"))


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(*sys.argv[2:])
    else:
        measure(*sys.argv[2:])
