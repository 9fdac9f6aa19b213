"""What a run leaves for people and programs: JSON, a table, scores by image."""

import csv
import importlib.metadata
import io
import json
import math
import os
import pathlib
import platform
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from jaxad.detectors.threshold import Threshold
from jaxad.devices import processes
from jaxad.errors import InputError, writing

VERDICTS = {False: "normal", True: "anomalous"}

# Columns of the table, in per cent.
COLUMNS = (
    "image_auroc",
    "image_ap",
    "image_f1_max",
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1_max",
    "aupro_0.3",
)


def write_text(
    path: pathlib.Path, text: str, *, errors: str = "surrogateescape"
) -> None:
    """Writes a file whole or not at all; of several processes the first does.

    Args:
      path: with the folders that lead to it.
      text: written in UTF-8.
      errors: what becomes of the bytes of names that are no UTF-8; they come back as
        they were, unless somebody says else.

    Raises:
      InputError: it cannot be written, as on a full disk.
    """
    if not processes.first():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8", errors=errors)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content) -> None:
    """Strict JSON: NaN and infinities become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    # JSON is UTF-8 throughout, and has the same escapes for what is none.
    write_text(path, text + "\n", errors="backslashreplace")


def read_json(path: pathlib.Path) -> dict | None:
    """The JSON of a file, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        # What a run's config.json says, that folder's own command alone knows.
        what = "its folder" if path.name == "config.json" else "it"
        raise InputError(
            f"{path} is not valid JSON; remove {what} to have it made again"
        ) from None


def finite(content):
    """The same as JSON has it: NaN and infinities are None, arrays' numbers plain."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def write_scores(path: pathlib.Path, split, scores: np.ndarray) -> None:
    """`scores.csv`: file, label (0 normal, 1 anomalous) and image score.

    Scores have nine significant digits, enough to give back the float32.
    """
    _write_csv(
        path,
        ("file", "label", "score"),
        (
            (name, int(label), f"{float(score):.9g}")
            for name, label, score in zip(
                split.filenames, split.labels, scores, strict=True
            )
        ),
    )


def write_defect_types(path: pathlib.Path, split) -> None:
    """`defect_types.csv`: file and kind of defect, in the order of `scores.csv`."""
    rows = zip(split.filenames, split.defect_types, strict=True)
    _write_csv(path, ("file", "defect_type"), rows)


def write_train(path: pathlib.Path, fitted_on, held_out) -> None:
    """`train.csv`: file, label and use: "fit", or "threshold" of those held out."""
    rows = [
        (name, int(label), use)
        for split, use in ((fitted_on, "fit"), (held_out, "threshold"))
        if split is not None
        for name, label in zip(split.filenames, split.labels, strict=True)
    ]
    _write_csv(path, ("file", "label", "use"), rows)


def write_verdicts(
    path: pathlib.Path, split, scores: np.ndarray, threshold: Threshold
) -> None:
    """`verdicts.csv`: file, label, score, conformal p-value, and the verdict."""
    _write_csv(
        path,
        ("file", "label", "score", "p_value", "verdict"),
        (
            (name, int(label), f"{float(score):.9g}", f"{p:.6g}", VERDICTS[bool(above)])
            for name, label, score, p, above in zip(
                split.filenames,
                split.labels,
                scores,
                threshold.p_values(scores),
                threshold.verdicts(scores),
                strict=True,
            )
        ),
    )


def write_suspects(path: pathlib.Path, split, scores: np.ndarray) -> None:
    """`suspects.csv`: good images by how unlike the others they are, worst first.

    Args:
      split: the images.
      scores: of each, by what was not fitted on it, [n].
    """
    order = np.argsort(-scores, kind="stable")
    _write_csv(
        path,
        ("rank", "file", "score"),
        (
            (rank, split.filenames[i], f"{float(scores[i]):.9g}")
            for rank, i in enumerate(order, start=1)
        ),
    )


def _write_csv(path: pathlib.Path, header: Sequence[str], rows: Iterable) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, out.getvalue())


def mean(
    categories: dict[str, dict], further: Sequence[str] = ()
) -> dict[str, float | None]:
    """Unweighted mean over categories of every metric that all of them have.

    Args:
      categories: rows of the results.
      further: metrics beside `COLUMNS`.
    """
    return {
        name: (
            float(np.mean([values[name] for values in categories.values()]))
            if all(values.get(name) is not None for values in categories.values())
            else None
        )
        for name in (*COLUMNS, *further)
    }


def table(results: dict) -> str:
    """The results as a Markdown table, in per cent; a dash where there is none.

    Of several memory banks it has means over them, and standard deviations.

    Those of a backbone are its probes, as they are, and what they have looked at.
    """
    if "probes" in results:
        return _probes(results["pictures"], **results["probes"])
    columns = [
        name
        for name in (*COLUMNS, *results.get("metrics", ()))
        if name.startswith("image_")
        or any(row.get(name) is not None for row in results["categories"].values())
    ]
    rows = list(results["categories"].items())
    if len(rows) > 1:
        # A category may be called mean.
        mean = "mean" if "mean" not in results["categories"] else "mean of all"
        rows.append((mean, results["mean"] | {"banks": results.get("banks")}))
    if "banks" in results:
        # Means over banks, and how far those lie apart.
        columns = [x for column in columns for x in (column, f"± {column}")]
        rows = [(name, _over_banks(values["banks"])) for name, values in rows]
    width = max(len(name) for name, _ in (*rows, ("category", None)))
    lines = [
        " | ".join((f"| {'category':<{width}}", *columns)) + " |",
        " | ".join((f"| {'-' * width}", *("-" * (len(c) - 1) + ":" for c in columns)))
        + " |",
    ]
    for name, values in rows:
        cells = [f"{_percent(values.get(c)):>{len(c)}}" for c in columns]
        lines.append(" | ".join((f"| {name:<{width}}", *cells)) + " |")
    return "\n".join(lines) + "\n"


def _over_banks(banks: dict) -> dict[str, float | None]:
    deviations = banks["deviation"].items()
    return banks["mean"] | {f"± {name}": value for name, value in deviations}


def _probes(pictures: dict, before: dict, after: dict) -> str:
    lines = ["| probe              | before |  after |", "| --- | ---: | ---: |"]
    for name, value in after.items():
        cells = (
            f"{'-' if x is None else f'{x:.4g}':>6}" for x in (before.get(name), value)
        )
        lines.append(f"| {name:<18} | {' | '.join(cells)} |")
    if "validation" in pictures:
        lines += ["", f"Pictures of the validation set: {pictures['validation']}"]
    else:
        lines += ["", f"Pictures held out of the corpus: {pictures['held_out']}"]
    return "\n".join(lines) + "\n"


def _percent(value) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    packages = ("jaxad", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "pillow")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
