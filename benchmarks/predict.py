"""From a folder to verdicts: jaxad beside anomalib's TorchInferencer, in one run.

  python benchmarks/predict.py --run RUN [--peer-python PYTHON] [--threads N]

RUN is a finished run of configs/patchcore_elpv.py. Both have its weights, its memory
bank, images of 300 x 300 resized to 224 x 224, and the same number of threads. Every
number is of a process of its own; "cold" has an empty compilation cache, which an
installation meets once. anomalib takes one image a call, or a tensor of images that
somebody else has read; the faster one counts.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

_HERE = pathlib.Path(__file__).parent


def measure(run: str, files: str, out: str) -> None:
    """Our side."""
    start = time.perf_counter()
    import jax

    import jaxad
    from jaxad.inference import predictor  # noqa: F401

    seconds = {"import": time.perf_counter() - start}
    files = json.load(open(files))
    start = time.perf_counter()
    detector = jaxad.load(run)
    seconds["load"] = time.perf_counter() - start
    start = time.perf_counter()
    detector.predict(files[0])
    seconds["first"] = time.perf_counter() - start
    one = []
    for file in files:
        start = time.perf_counter()
        detector.predict(file)
        one.append(time.perf_counter() - start)
    seconds["one"] = statistics.median(one)
    detector.predict(files[:2])
    start = time.perf_counter()
    results = detector.predict(files)
    seconds["batched"] = (time.perf_counter() - start) / len(files)
    scores = [result.score for result in results[:20]]
    json.dump({**seconds, "scores": scores, "jax": jax.__version__}, open(out, "w"))


def _child(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--images", type=int, default=160)
    arguments = parser.parse_args()
    import elpv_dataset
    import numpy as np

    from jaxad.inference import folder as detector_folder

    (member,) = detector_folder.load(arguments.run).members
    root = pathlib.Path(elpv_dataset.__file__).parent / "data/images"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = [str(path) for path in sorted(root.glob("*.png"))[: arguments.images]]
        (folder / "files.json").write_text(json.dumps(files))
        np.save(folder / "bank.npy", np.asarray(member.state["memory_bank"]))
        peer = [arguments.peer_python, str(_HERE / "anomalib_predict.py")]
        _child(
            [*peer, "export", str(folder / "bank.npy"), str(folder)],
            CUDA_VISIBLE_DEVICES="",
        )
        (model,) = folder.rglob("*.pt")
        rows = {}
        ours = [sys.executable, __file__, "--measure", arguments.run]
        # Warm comes second: it finds what cold has compiled.
        for name in ("cold", "warm"):
            _child(
                [*ours, str(folder / "files.json"), str(folder / "out.json")],
                JAX_COMPILATION_CACHE_DIR=str(folder / "xla"),
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="0",
                JAX_PLATFORMS="cpu",
            )
            rows[name] = json.loads((folder / "out.json").read_text())
            if name == "cold":  # beside the warm one, so that both meet one machine
                _child(
                    [*peer, "time", str(model), str(folder / "files.json")]
                    + [str(folder / "peer.json"), str(arguments.threads)],
                    CUDA_VISIBLE_DEVICES="",
                )
                rows["peer"] = json.loads((folder / "peer.json").read_text())
    _print(rows, arguments.threads, len(files))


def _print(rows: dict, threads: int, images: int) -> None:
    cold, warm, peer = (rows[name] for name in ("cold", "warm", "peer"))
    print(f"ELPV cells, CPU, {threads} threads, {images} images; seconds\n")
    print("| | jaxad, cold | jaxad, warm | anomalib 2.7.0 | anomalib / warm |")
    print("|---|--:|--:|--:|--:|")
    for key, name in (
        ("import", "import"),
        ("load", "load"),
        ("first", "first prediction"),
        ("one", "one image, median"),
    ):
        ratio = peer[key] / warm[key]
        print(
            f"| {name} | {cold[key]:.4f} | {warm[key]:.4f} | {peer[key]:.4f} | "
            f"{ratio:.2f} |"
        )
    best = min(peer["one"], peer["batched"])
    print(
        f"| images/s, many | {1 / cold['batched']:.1f} | {1 / warm['batched']:.1f} | "
        f"{1 / best:.1f} | {best / warm['batched']:.2f} |"
    )
    gap = max(
        abs(a - b) / b for a, b in zip(warm["scores"], peer["scores"], strict=True)
    )
    print(f"\nScores differ by at most {gap:.1e} relative; jax {warm['jax']}, torch "
          f"{peer['torch']}")  # fmt: skip


if __name__ == "__main__":
    main()
