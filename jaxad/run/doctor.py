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

from jaxad import data
from jaxad.data import images
from jaxad.data.split import Note
from jaxad.devices import processes
from jaxad.errors import InputError
from jaxad.run import masks

_LOG = logging.getLogger(__name__)

ERROR, WARNING = "error", "warning"
# An image that loses so many times its pixels is told of.
_SHRUNK = 4
# Lines that the table gives to findings of one kind.
_LINES = 10
_DUPLICATE = "duplicate image"
_TWO_LABELS = "normal and anomalous image of the same pixels"


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about a file; `split` is "train", "test" or "added"."""

    severity: str
    split: str
    file: str
    kind: str
    detail: str = ""


def check(
    config: ml_collections.ConfigDict, category: str, learns_from: str = "normal"
) -> list[Finding]:
    """Looks at every image and mask of a category; logs how much images shrink.

    Args:
      config: `config.dataset`, completed: masks are looked at in the run's size, too.
      category: one of `data.categories(config)`.
      learns_from: as `methods.learns_from`.

    Returns:
      Errors first, then in order of kind, split and file.

    Raises:
      InputError: the data cannot be listed.
    """
    # A published split is what it is, even if it should hold an image twice.
    own = config.name == "folder"
    splits = [data.load(config, category, name) for name in ("train", "test")]
    only_normal = own and learns_from == "normal" and config.protocol == "1cls"
    findings, looks = [], {}
    for split in splits:
        looks[split.name] = _look_at_all(split, f"{category}: check {split.name}")
        for look in looks[split.name]:
            findings += look.findings
        findings += [*_noted(split), *_labels(split, learns_from, only_normal)]
        findings += _of_masks(split, looks[split.name])
    findings += _duplicates(looks, ERROR if own else WARNING)
    findings += _mixed(looks)
    _tell_of_shrinking(splits[0], looks["train"], category)
    return sorted(findings, key=lambda f: (f.severity, f.kind, f.split, f.file))


def require_sound(
    config: ml_collections.ConfigDict, category: str, learns_from: str = "normal"
) -> None:
    """Logs the warnings about a category.

    Where `config.check` is off no image is looked at, and nothing stops a run; but what
    is left out of it is logged all the same.

    Raises:
      InputError: names the first file with an error, and the command that lists all.
    """
    if not config.check:
        splits = [data.load(config, category, name) for name in ("train", "test")]
        notes = [finding for split in splits for finding in _noted(split)]
        for line in _lines(sorted(notes, key=lambda f: (f.severity, f.kind))):
            _LOG.warning("%s: %s", category, line)
        return
    _require_none(
        check(config, category, learns_from),
        category,
        "python -m jaxad.check lists them all, and --config.dataset.check=False goes "
        "on regardless",
    )


def require_sound_corpus(config: ml_collections.ConfigDict, corpus: data.Split) -> None:
    """Tells what is left out of a corpus, and how many of its pictures are smaller than
    what they are brought to.

    Headers are looked at, because pictures may be millions; nothing where
    `config.check` is off. Each process looks at its share.

    Raises:
      InputError: names the first picture without a header that can be read.
    """
    for line in _lines(sorted(_noted(corpus), key=lambda f: (f.severity, f.kind))):
        _LOG.warning("%s", line)
    if not config.check:
        return
    share = processes.share()
    mine = range(share.get("process", 0), len(corpus), share.get("processes", 1))

    def smaller(i: int) -> bool:
        height, width = images.size(corpus.read(i)[0])
        rows, columns = corpus.geometry.resized((height, width))
        return height * width < rows * columns

    small, broken = [], None
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        processes.progress(total=len(mine), desc="check", unit="img") as progress,
    ):
        for i, look in zip(mine, _tried(pool, smaller, mine), strict=True):
            if isinstance(look, Exception):
                broken = f"{corpus.name}: {corpus.filenames[i]} cannot be read ({look})"
                break
            small += [i] * look
            progress.update()
    found = processes.gather((small, broken))
    for _, broken in found:
        if broken is not None:
            raise InputError(f"{broken}; mend or remove it")
    small = sorted(i for each, _ in found for i in each)
    if small:
        _LOG.warning(
            "%d of %d pictures are smaller than they are used and are enlarged: %s, "
            "for one; a smaller config.dataset.image_size, or resize_to, shows them as "
            "they are",
            *(len(small), len(corpus), corpus.filenames[small[0]]),
        )


def _tried(pool, function, items) -> Iterable:
    """What a function gives of each, or the exception of what cannot be read."""

    def one(item):
        try:
            return function(item)
        except (OSError, images.Unreadable) as error:
            return error

    return pool.map(one, items)


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
    """What one image shows.

    Attributes:
      content: a digest of its pixels; "" if unreadable.
      shape: (height, width); `size` says the same.
    """

    file: str
    label: int
    findings: list[Finding]
    content: str = ""
    size: str = ""
    kind: str = ""
    shape: tuple[int, int] | None = None


def _look_at_all(split: data.Split, label: str) -> list[_Look]:
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        processes.progress(total=len(split), desc=label, unit="img") as progress,
    ):
        looks = []
        for look in pool.map(lambda i: _look(split, i), range(len(split))):
            looks.append(look)
            progress.update()
    return looks


def _look(split: data.Split, i: int) -> _Look:
    file, label, findings = split.filenames[i], int(split.labels[i]), []

    def find(severity, kind, detail=""):
        findings.append(Finding(severity, split.name, file, kind, detail))

    try:
        encoded, encoded_mask = split.read(i)
        kind = images.kind(encoded)
        image, frames = split.decode(encoded), images.frames(encoded)
    except (OSError, images.Unreadable) as error:
        find(ERROR, "unreadable image", str(error))
        return _Look(file, label, findings)
    grey_16 = kind.startswith("I;16") or kind == "LA;16"
    peak = round(image.getextrema()[1] * 65535) if grey_16 else None
    if grey_16 and peak <= 2**14:  # cameras have 10, 12 or 14 bits
        find(WARNING, "dark 16-bit image", f"brightest value {peak} of 65535")
    if frames > 1:
        find(WARNING, f"image of which {masks.MANY}", f"{frames} of them")
    if kind.endswith(";16") and not grey_16:
        find(WARNING, "16-bit colour is read with 8 bits a channel")
    findings += [
        _of_note(note, split.name)
        for note in masks.notes(
            split, i, encoded_mask, image.size[::-1], images.orientation(encoded)
        )
    ]
    digest = hashlib.sha256(repr((image.mode, image.size)).encode())
    digest.update(image.tobytes())
    size = f"{image.height} x {image.width}"
    shape = image.size[::-1]
    return _Look(file, label, findings, digest.hexdigest(), size, kind, shape)


def _of_masks(split: data.Split, looks: list[_Look]) -> Iterable[Finding]:
    """What there is to tell of all masks together."""
    sizes = [look.shape for look in looks if look.shape]
    kinds = [{finding.kind for finding in look.findings} for look in looks]
    for note in masks.of_split(split, sizes, kinds):
        yield _of_note(note, split.name)


def _of_note(note: Note, split: str) -> Finding:
    severity = ERROR if note.grave else WARNING
    return Finding(severity, split, note.file, note.kind, note.detail)


def _noted(split: data.Split) -> Iterable[Finding]:
    """What the listing has told of files that it did not take as they stand."""
    for note in split.notes:
        yield _of_note(note, split.name)


def _labels(
    split: data.Split, learns_from: str, only_normal: bool
) -> Iterable[Finding]:
    """What is wrong with the split as a whole."""
    if split.name == "train":
        if only_normal:
            for i in np.flatnonzero(split.labels == 1):
                yield Finding(
                    ERROR,
                    "train",
                    split.filenames[i],
                    "anomalous image in train",
                    f"{split.defect_types[i]}; config.dataset.normal_names adds names "
                    "of normal ones",
                )
        if not (split.labels == 0).any():
            yield Finding(ERROR, "train", "train", "no normal image")
        if learns_from != "normal" and not (split.labels == 1).any():
            detail = "the method learns from both classes"
            yield Finding(ERROR, "train", "train", "no anomalous image", detail)
        return
    if not len(split):
        detail = "a detector is fitted all the same, without metrics"
        yield Finding(WARNING, "test", "test", "no image", detail)
        return
    for label, name in enumerate(("normal", "anomalous")):
        if not (split.labels == label).any():
            detail = "AUROC and the like are undefined"
            yield Finding(WARNING, "test", "test", f"no {name} image", detail)


def _duplicates(looks: dict[str, list[_Look]], across: str) -> Iterable[Finding]:
    """The same pixels twice.

    `across` is how grave it is where one of them tests and the other does not, and
    where one is normal and the other anomalous.
    """
    first: dict[str, tuple[str, _Look]] = {}
    for split, of_split in looks.items():
        for look in of_split:
            if not look.content:
                continue
            where, other = first.setdefault(look.content, (split, look))
            if other is look:
                continue
            kind = _DUPLICATE if where == split else _across(where, split)
            tests = where != split and "test" in (where, split)
            if look.label != other.label:
                kind, tests = _TWO_LABELS, True
            severity = across if tests else WARNING
            yield Finding(severity, split, look.file, kind, f"same as {other.file}")


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


def _tell_of_shrinking(split: data.Split, looks: list[_Look], category: str) -> None:
    """Logs what becomes of the most common size, where most of its pixels go."""
    sizes = collections.Counter(look.shape for look in looks if look.shape)
    if not sizes:
        return
    height, width = sizes.most_common(1)[0][0]
    rows, columns = split.geometry.resized((height, width))
    if height * width > _SHRUNK * rows * columns:
        _LOG.info(
            "%s: %d x %d becomes %d x %d; small defects need a larger "
            "config.dataset.image_size",
            *(category, height, width, rows, columns),
        )


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
