"""The doctor: finds bad data before it costs a run."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable

import ml_collections
import numpy as np
from tqdm import tqdm

from jaxad import data
from jaxad.data import images
from jaxad.errors import InputError

_LOG = logging.getLogger(__name__)

ERROR, WARNING = "error", "warning"
# Lines that the table gives to findings of one kind.
_LINES = 10
_DUPLICATE = "duplicate image"


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about a file; `split` is "train", "test" or "added"."""

    severity: str
    split: str
    file: str
    kind: str
    detail: str = ""


def check(config: ml_collections.ConfigDict, category: str) -> list[Finding]:
    """Looks at every image and mask of a category.

    Args:
      config: `config.dataset`.
      category: one of `data.categories(config)`.

    Returns:
      Errors first, then in order of kind, split and file.

    Raises:
      InputError: the data cannot be listed.
    """
    config = config.copy_and_resolve_references()
    config.image_size = (1, 1)  # files are looked at as they are stored
    # A published split is what it is, even if it should hold an image twice.
    own = config.name == "folder"
    splits = [data.load(config, category, name) for name in ("train", "test")]
    findings, looks = [], {}
    for split in splits:
        looks[split.name] = _look_at_all(split, f"{category}: check {split.name}")
        for look in looks[split.name]:
            findings += look.findings
        findings += _labels(split, own)
    findings += _duplicates(looks, ERROR if own else WARNING)
    findings += _mixed(looks)
    return sorted(findings, key=lambda f: (f.severity, f.kind, f.split, f.file))


def require_sound(config: ml_collections.ConfigDict, category: str) -> None:
    """Logs the warnings about a category.

    Raises:
      InputError: names the first file with an error, and the command that lists all.
    """
    _require_none(
        check(config, category),
        category,
        "python -m jaxad.check lists them all, and --config.dataset.check=False goes "
        "on regardless",
    )


def require_sound_addition(
    config: ml_collections.ConfigDict, category: str, added: data.Split
) -> int:
    """Logs the warnings about normal images that come to those of a category.

    Args:
      config, category: as in `check`.
      added: the new images; its name is "added".

    Returns:
      How many of them show what a training image, or another of them, shows already.

    Raises:
      InputError: names the first of them that is unreadable, or that is in test.
    """
    splits = *(data.load(config, category, name) for name in ("test", "train")), added
    looks = {
        split.name: _look_at_all(split, f"{category}: check {split.name}")
        for split in splits
    }
    findings = [finding for look in looks["added"] for finding in look.findings]
    between = [*_duplicates(looks, ERROR), *_mixed(looks)]
    findings += [finding for finding in between if finding.split == "added"]
    findings.sort(key=lambda f: (f.severity, f.kind, f.file))
    _require_none(findings, category, "take it out of the images to add")
    return sum(f.kind in (_DUPLICATE, _across("train", "added")) for f in findings)


def _require_none(findings: list[Finding], category: str, advice: str) -> None:
    """Raises InputError at an error, which comes first; logs the warnings."""
    if findings and findings[0].severity == ERROR:
        first = findings[0]
        detail = _in_brackets(first.detail)
        raise InputError(f"{category}: {first.file}: {first.kind}{detail}; {advice}")
    for line in _lines(findings):
        _LOG.warning("%s: %s", category, line)


@dataclasses.dataclass(frozen=True)
class _Look:
    """What one image shows. `content` is a digest of its pixels; "" if unreadable."""

    file: str
    findings: list[Finding]
    content: str = ""
    size: str = ""
    kind: str = ""


def _look_at_all(split: data.Split, label: str) -> list[_Look]:
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(split), desc=label, unit="img", disable=None) as progress,
    ):
        looks = []
        for look in pool.map(lambda i: _look(split, i), range(len(split))):
            looks.append(look)
            progress.update()
    return looks


def _look(split: data.Split, i: int) -> _Look:
    file, findings = split.filenames[i], []

    def find(severity, kind, detail=""):
        findings.append(Finding(severity, split.name, file, kind, detail))

    try:
        encoded, encoded_mask = split.read(i)
        kind = images.kind(encoded)
        image = images.decode_image(encoded)
    except (OSError, images.Unreadable) as error:
        find(ERROR, "unreadable image", str(error))
        return _Look(file, findings)
    grey_16 = kind.startswith("I;16") or kind == "LA;16"
    if grey_16 and image.getextrema()[1] <= 1 / 8:
        peak = round(image.getextrema()[1] * 65535)
        find(WARNING, "dark 16-bit image", f"brightest value {peak} of 65535")
    if kind.endswith(";16") and not grey_16:
        find(WARNING, "16-bit colour is read with 8 bits a channel")
    _look_at_mask(find, split, int(split.labels[i]), encoded_mask, image.size[::-1])
    digest = hashlib.sha256(repr((image.mode, image.size)).encode())
    digest.update(image.tobytes())
    size = f"{image.height} x {image.width}"
    return _Look(file, findings, digest.hexdigest(), size, kind)


def _look_at_mask(find, split, label, encoded, size) -> None:
    if encoded is None:
        if label == 1 and split.has_masks:
            find(ERROR, "anomalous image without mask")
        return
    try:
        mask, kind = images.decode_mask(encoded), images.kind(encoded)
    except images.Unreadable as error:
        find(ERROR, "unreadable mask", str(error))
        return
    if kind.endswith(";16") and kind != "I;16":
        find(WARNING, "16-bit colour mask is read with 8 bits a channel")
    if mask.shape != size:
        shapes = [f"{height} x {width}" for height, width in (mask.shape, size)]
        find(ERROR, "mask of another size", f"{shapes[0]}, image {shapes[1]}")
    if label == 1 and not mask.any():
        find(WARNING, "empty mask of an anomalous image")
    if label == 0 and mask.any():
        find(ERROR, "normal image with a mask that is not empty")
    values = np.unique(mask).tolist()
    if not set(values) <= {0, 1} and not set(values) <= {0, 255}:
        shown = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
        find(WARNING, "mask with other values than 0 and 255", shown)


def _labels(split: data.Split, own: bool) -> Iterable[Finding]:
    """What is wrong with the split as a whole."""
    for mask in split.unused_masks:
        yield Finding(WARNING, split.name, mask, "mask without image")
    if split.name == "train":
        if own:
            for i in np.flatnonzero(split.labels == 1):
                file = split.filenames[i]
                yield Finding(ERROR, "train", file, "anomalous image in train")
        if not (split.labels == 0).any():
            yield Finding(ERROR, "train", "train", "no normal image")
        return
    for label, name in enumerate(("normal", "anomalous")):
        if not (split.labels == label).any():
            detail = "AUROC and the like are undefined"
            yield Finding(WARNING, "test", "test", f"no {name} image", detail)


def _duplicates(looks: dict[str, list[_Look]], across: str) -> Iterable[Finding]:
    """The same pixels twice; `across` is how grave it is where one of them tests."""
    first: dict[str, tuple[str, str]] = {}
    for split, of_split in looks.items():
        for look in of_split:
            if not look.content:
                continue
            where, file = first.setdefault(look.content, (split, look.file))
            if (where, file) == (split, look.file):
                continue
            kind = _DUPLICATE if where == split else _across(where, split)
            tests = where != split and "test" in (where, split)
            severity = across if tests else WARNING
            yield Finding(severity, split, look.file, kind, f"same as {file}")


def _across(where: str, split: str) -> str:
    return f"image of {where} in {split}"


def _mixed(looks: dict[str, list[_Look]]) -> Iterable[Finding]:
    """The images that are unlike most others of all splits."""
    everything = [
        (split, look) for split, of in looks.items() for look in of if look.content
    ]
    for field, kind in (("size", "mixed sizes"), ("kind", "mixed colours or depths")):
        counts = collections.Counter(getattr(look, field) for _, look in everything)
        if len(counts) < 2:
            continue
        usual = counts.most_common(1)[0][0]
        for split, look in everything:
            value = getattr(look, field)
            if value != usual:
                detail = f"{value}, most are {usual}"
                yield Finding(WARNING, split, look.file, kind, detail)


def table(findings: list[Finding]) -> str:
    """The findings for a person: a line each, long lists of one kind cut short."""
    return "".join(f"{line}\n" for line in _lines(findings))


def _lines(findings: list[Finding]) -> Iterable[str]:
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind), []).append(finding)
    for (severity, kind), group in groups.items():
        for finding in group[:_LINES]:
            detail = _in_brackets(finding.detail)
            yield f"{severity:<7}  {finding.split:<5}  {kind}{detail}: {finding.file}"
        if len(group) > _LINES:
            yield f"{severity:<7}         {kind}: {len(group) - _LINES} more"


def _in_brackets(detail: str) -> str:
    return f" ({detail})" if detail else ""
