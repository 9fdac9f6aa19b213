"""What the page of a run shows."""

import collections
import datetime
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxad import curves as curves_lib
from jaxad import metrics, statistics
from jaxad.detectors.threshold import proportion_interval
from jaxad.errors import InputError
from jaxad.inference import pictures
from jaxad.inference.thumbnails import Thumbnail
from jaxad.reporting import charts, gallery, reading, settings
from jaxad.reporting.reading import Category, Run
from jaxad.run import overlays, results

# Of the images of an outcome, those that go on paper.
_PRINTED = 10


def context(run: Run, page: pathlib.Path) -> dict[str, Any]:
    """What the template `run.html` is given."""
    shown = [
        thumbnails.get(i)
        for category in run.categories
        for thumbnails in (category.thumbnails, category.suspect_thumbnails)
        for i in thumbnails
    ]
    album = gallery.Album(page, shown)
    finished = (run.folder / reading.RESULTS).stat().st_mtime
    return {
        "title": f"{run.results['dataset']}, {run.results['method']}",
        "run": run,
        "finished": _time(finished),
        "columns": columns([run]),
        "totals": _totals(run),
        "categories": [_category(one, page, album) for one in run.categories],
        "config": settings.changed(run),
        "files": _files(run.folder, page),
    }


def _time(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def columns(runs: Sequence[Run]) -> list[str]:
    """Metrics that some run has, of images first."""
    own = [name for run in runs for name in run.results.get("metrics", ())]
    rows = [row for run in runs for row in run.results["categories"].values()]
    return [
        name
        for name in dict.fromkeys((*results.COLUMNS, *own))
        if any(row.get(name) is not None for row in rows)
    ]


def _totals(run: Run) -> dict[str, Any]:
    """Of all categories together."""
    found: dict[str, Any] = {"images": sum(len(c.files) for c in run.categories)}
    for name in ("false_alarms", "misses"):
        counts = [
            row["threshold"]["test"][name]
            for row in run.results["categories"].values()
            if row.get("threshold") and row["threshold"]["test"][name]
        ]
        if counts:
            count, of = (sum(one[key] for one in counts) for key in ("count", "of"))
            interval = proportion_interval(count, of)
            found[name] = {"count": count, "of": of, "interval": interval}
    if len(run.categories) == 1:
        category = run.categories[0]
        found["auroc_interval"] = _interval(category.scores, category.labels)
    return found


def _interval(scores, labels) -> tuple[float, float] | None:
    try:
        return statistics.auroc_interval(scores, labels)
    except InputError:  # of one class, or of one image of a class
        return None


def _category(
    category: Category, page: pathlib.Path, album: gallery.Album
) -> dict[str, Any]:
    start = start_of(category)
    calibration = [] if category.threshold is None else category.threshold.scores
    normal, anomalous = (category.scores[category.labels == x] for x in (0, 1))
    low, high = charts.spread(
        calibration, normal, anomalous, [] if start is None else [start]
    )
    kinds = sorted(set(category.kinds or ()))
    cards = _cards(category, page, album)
    data = {
        "scores": _rounded(category.scores),
        "labels": category.labels.tolist(),
        "kinds": [kinds.index(kind) for kind in category.kinds or ()],
        "calibration": _rounded(calibration),
        "threshold": start,
        "low": low,
        "high": high,
    }
    return {
        "name": category.name,
        "row": category.row,
        "threshold": category.threshold,
        "start": start,
        "auroc_interval": _interval(category.scores, category.labels),
        "histograms": charts.histograms(
            [
                ("calibration", "calibration (normal)", calibration),
                ("normal", "normal, test", normal),
                ("anomalous", "anomalous, test", anomalous),
            ],
            low,
            high,
        ),
        "low": low,
        "high": high,
        "counts": counts_of(category, start),
        "curves": test_curves([category]),
        "kinds": _kinds(category, kinds),
        "cards": cards,
        "masks": any(card["layers"] and card["layers"].mask for card in cards),
        "training": [_training(one) for one in category.curves],
        "data": data,
    }


def start_of(category: Category) -> float | None:
    """Where the threshold begins: at the run's own, or else at that of the best F1."""
    if category.threshold is not None:
        return category.threshold.value
    best = category.row.get("image_f1_threshold")
    # There an image is anomalous that scores as high, here one that scores higher.
    return None if best is None else float(np.nextafter(best, -np.inf))


def _rounded(values) -> list[float]:
    """With as many digits as a float32 has."""
    return [float(f"{float(value):.9g}") for value in values]


def counts_of(category: Category, start: float | None) -> dict[str, int]:
    """What the threshold says of the images, as the page counts it, too."""
    counts = {
        "normal": int((category.labels == 0).sum()),
        "anomalous": int((category.labels == 1).sum()),
    }
    if start is not None:
        above = category.scores > start
        counts["false_alarms"] = int((above & (category.labels == 0)).sum())
        counts["misses"] = int((~above & (category.labels == 1)).sum())
    return counts


def test_curves(categories: Sequence[Category]) -> dict[str, Any] | None:
    """ROC and precision-recall curves, the bands of the first alone."""
    found = []
    for category in categories:
        try:
            roc = curves_lib.roc(category.scores, category.labels)
            precision = curves_lib.precision_recall(category.scores, category.labels)
        except InputError:  # of one class, or of one image of a class
            return None
        found.append((roc, precision))
    least = charts.least_share(*(precision.low for _, precision in found))
    axes = (
        charts.unit("false-alarm rate", "hit rate"),
        charts.unit("hit rate (recall)", "precision", least=least),
    )
    drawn = {}
    for i, (name, on) in enumerate(zip(("roc", "precision"), axes, strict=True)):
        curves = [both[i] for both in found]
        band = on.band(curves[0].x, curves[0].low, curves[0].high)
        # The ROC goes up at 0, and stays where the last hit has been.
        lines = [on.line(curve.x, curve.y) for curve in curves]
        drawn[name] = {"axes": on, "lines": lines, "band": band}
    return drawn


def _kinds(category: Category, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for every kind of defect."""
    rows, kinds = [], np.array(category.kinds or ())
    normal = category.scores[category.labels == 0]
    for index, name in enumerate(names):
        which = kinds == name
        scores, labels = category.scores[which], category.labels[which]
        row = {
            "index": index,
            "name": name,
            "anomalous": bool(labels.any()),
            "images": len(scores),
            "median": float(np.median(scores)),
            "above": None,
            "auroc": None,
        }
        if category.threshold is not None:
            count = int(category.threshold.verdicts(scores).sum())
            row["above"] = count
            row["interval"] = proportion_interval(count, len(scores))
        if labels.all() and len(normal):
            row["auroc"] = metrics.auroc(
                np.concatenate([normal, scores]),
                np.repeat([0, 1], [len(normal), len(scores)]),
            )
        rows.append(row)
    return rows


def _cards(
    category: Category,
    page: pathlib.Path,
    album: gallery.Album,
) -> list[dict[str, Any]]:
    """The gallery: test images by falling score, and then the suspects."""
    small, full = category.thumbnails, gallery.full_pictures(category.folder, page)
    scale = gallery.scale_of(map(small.get, small), category.pixel_threshold)
    outcomes, p_values, count = category.outcomes(), None, collections.Counter()
    if category.threshold is not None:
        p_values = category.threshold.p_values(category.scores)
    cards = []
    for i in np.argsort(-category.scores, kind="stable").tolist():
        outcome = outcomes[i] if outcomes else ""
        count[outcome] += 1
        cards.append(
            {
                "index": i,
                "file": category.files[i],
                "kind": category.kinds[i] if category.kinds else "",
                "score": float(category.scores[i]),
                "p_value": None if p_values is None else float(p_values[i]),
                "anomalous": bool(category.labels[i]),
                "outcome": outcome,
                "more": count[outcome] > _PRINTED,
                "layers": layers(album, small.get(i), scale),
                "full": full.get((False, overlays.stem(category.files[i])), ""),
            }
        )
    small = category.suspect_thumbnails
    for rank, (file, score) in enumerate(category.suspects[: len(small)]):
        cards.append(
            {
                "index": -1 - rank,
                "file": file,
                "kind": f"training image, suspect {rank + 1}",
                "score": score,
                "p_value": None,
                "anomalous": False,
                "outcome": "suspect",
                "more": rank >= _PRINTED,
                "layers": layers(album, small.get(rank), scale),
                "full": full.get((True, overlays.stem(file)), ""),
            }
        )
    return cards


def layers(album, thumbnail: Thumbnail | None, scale: pictures.Scale):
    return None if thumbnail is None else album.add(thumbnail, scale)


def _training(curves: reading.Curves) -> dict[str, Any]:
    drawn = []
    for name, (steps, values) in sorted(curves.values.items()):
        axes = charts.over_steps(steps, values, name)
        drawn.append({"name": name, "axes": axes, "line": axes.line(steps, values)})
    return {"stage": curves.stage, "charts": drawn}


def _files(folder: pathlib.Path, page: pathlib.Path) -> list[str]:
    """What lies beside the page and a reader may want."""
    if page.parent.resolve() != folder.resolve():
        return []
    return [
        name for name in (reading.RESULTS, reading.CONFIG) if (folder / name).exists()
    ]
