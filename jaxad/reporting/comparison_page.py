"""What the page of several runs shows: each beside the first."""

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxad.reporting import comparing, gallery, run_page, settings
from jaxad.reporting.reading import Run

# Of the images that changed sides, those that are shown.
_SIDES = 200
# Pixel metrics whose differences are shown, where there are masks.
_PIXEL_COLUMNS = ("pixel_auroc", "pixel_ap", "aupro_0.3")


def context(runs: list[Run], page: pathlib.Path) -> dict[str, Any]:
    """What the template `comparison.html` is given."""
    base, *others = runs
    letters = [_letter(i) for i in range(len(runs))]
    names = list(dict.fromkeys(one.name for run in runs for one in run.categories))
    parts = []
    for name in names:
        for letter, other in zip(letters[1:], others, strict=True):
            parts.append(_pair(name, base, other, letter))
    wanted = [side["thumbnails"] for part in parts for side in part["shown"]]
    album = gallery.Album(page, [x for pair in wanted for x in pair if x is not None])
    for part in parts:
        for side in part["shown"]:
            side["layers"] = [
                run_page.layers(album, thumbnail, scale)
                for thumbnail, scale in zip(
                    side.pop("thumbnails"), part["scales"], strict=True
                )
            ]
    apart = {(p["category"], p["letter"]): p["apart"] for p in parts}
    curves = {}
    for name in names:
        alike = [
            (letter, run.category(name))
            for letter, run in zip(letters, runs, strict=True)
            if run.category(name) and not apart.get((name, letter))
        ]
        curves[name] = {
            "letters": [letter for letter, _ in alike],
            "drawn": run_page.test_curves([category for _, category in alike])
            if len(alike) > 1
            else None,
        }
    return {
        "title": f"{len(runs)} runs",
        "runs": list(
            zip(letters, _apart([run.folder for run in runs]), runs, strict=True)
        ),
        "columns": run_page.columns(runs),
        "names": names,
        "pixel_columns": [
            name
            for name in _PIXEL_COLUMNS
            if any(name in part["found"].pixels for part in parts if not part["apart"])
        ],
        "parts": parts,
        "curves": curves,
        "differing": settings.differing(runs),
        "most": _SIDES,
    }


def _letter(i: int) -> str:
    return chr(ord("A") + i) if i < 26 else f"R{i + 1}"


def _apart(folders: Sequence[pathlib.Path]) -> list[str]:
    """Names of folders, with as many of those above as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def _pair(name: str, base: Run, other: Run, letter: str) -> dict[str, Any]:
    """A run against the first one, on one category."""
    part = {
        "category": name,
        "letter": letter,
        "apart": comparing.why_apart(base, other, name, (_letter(0), letter)),
        "shown": [],
        "scales": [],
    }
    if part["apart"]:
        return part
    both = [run.category(name) for run in (base, other)]
    found = comparing.compare(*both)
    part["found"] = found
    part["counts"] = [run_page.counts_of(one, run_page.start_of(one)) for one in both]
    part["has_verdicts"] = found.sides is not None
    part["scales"] = [
        gallery.scale_of(map(one.thumbnails.get, one.thumbnails), one.pixel_threshold)
        for one in both
    ]
    for side in (found.sides or ())[:_SIDES]:
        i = side.image
        part["shown"].append(
            {
                "file": both[0].files[i],
                "kind": both[0].kinds[i] if both[0].kinds else "",
                "anomalous": side.anomalous,
                "gained": side.gained,
                "scores": [float(one.scores[i]) for one in both],
                "p_values": [
                    float(one.threshold.p_values(one.scores[i])) for one in both
                ],
                "thumbnails": [one.thumbnails.get(i) for one in both],
            }
        )
    return part
