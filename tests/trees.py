"""Small data sets on disk with the quirks of the real ones, written from code."""

import io
import pathlib
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

RED = (200, 40, 10)


def image(path, colour=RED, size=(6, 8), mark=0):
    """One colour over (height, width), or one grey where `colour` is a number.

    `mark` changes the first pixel, so that no two images are the same.
    """
    shape = size if np.isscalar(colour) else (*size, 3)
    pixels = np.full(shape, colour, np.uint8)
    pixels[0, 0] = mark
    save(path, Image.fromarray(pixels))


def mask(path, value=255, size=(6, 8), palette=False):
    """The left half is `value`, the right half 0."""
    pixels = np.zeros(size, np.uint8)
    pixels[:, : size[1] // 2] = value
    made = Image.fromarray(pixels)
    if palette:
        made = made.convert("P")
        made.putdata(pixels.ravel().tolist())
        made.putpalette([0, 0, 0] * 256)  # black, whatever the id
    save(path, made)


def save(path, made, **options):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path, **options)


def mvtec_ad(root, categories=("bottle", "grid"), train=3, good=2, bad=2):
    """Grid is grey; a Mac has been here."""
    for category in categories:
        folder = pathlib.Path(root) / category
        colour = 90 if category == "grid" else RED
        for i in range(train):
            image(folder / f"train/good/{i:03}.png", colour, mark=i)
        for i in range(good):
            image(folder / f"test/good/{i:03}.png", colour, mark=50 + i)
        for i in range(bad):
            image(folder / f"test/bent/{i:03}.png", colour, mark=100 + i)
            mask(folder / f"ground_truth/bent/{i:03}_mask.png")
        for stray in (".DS_Store", "._000.png", "Thumbs.db"):
            (folder / "test/bent" / stray).write_bytes(b"\0")
            (folder / "train/good" / stray).write_bytes(b"\0")
        (folder / "test/.DS_Store").write_bytes(b"\0")
        (folder / "license.txt").write_text("as it is")
    return pathlib.Path(root)


def btad(root):
    """Product 01 has bmp images with png masks, 03 bmp masks; numbers are missing."""
    root = pathlib.Path(root) / "BTech_Dataset_transformed"
    for product, masks in (("01", "png"), ("03", "bmp")):
        folder = root / product
        for i in (0, 1, 3):
            image(folder / f"train/ok/{i:04}.bmp", mark=i)
        image(folder / "test/ok/0000.bmp", mark=50)
        for i in (0, 2):
            image(folder / f"test/ko/{i:04}.bmp", mark=100 + i)
            mask(folder / f"ground_truth/ko/{i:04}.{masks}")
    return root.parent


def visa(root, objects=("candle",), normal=20, anomalous=20):
    """Upper-case .JPG; masks of class ids that look black, the last one a palette's.

    Of each class the first half trains under both two-class protocols; under 1cls the
    first half of the normal images does.
    """
    root = pathlib.Path(root)
    tables = dict.fromkeys(("1cls", "2cls_highshot", "2cls_fewshot"), "")
    for name in objects:
        annotations = "image,label,mask\n"
        for label, count in (("normal", normal), ("anomaly", anomalous)):
            folder = f"{name}/Data/Images/{label.capitalize()}"
            for i in range(count):
                path, mask_path = f"{folder}/{i:04}.JPG", ""
                image(root / path, mark=i)
                if label == "anomaly":
                    mask_path = f"{name}/Data/Masks/Anomaly/{i:04}.png"
                    mask(root / mask_path, 1 + i % 8, palette=i == count - 1)
                defect = "normal" if label == "normal" else '"melt,scratch"'
                annotations += f"{path},{defect},{mask_path}\n"
                first_half = i < count // 2
                for protocol in tables:
                    train = first_half and (label == "normal" or protocol != "1cls")
                    split = "train" if train else "test"
                    tables[protocol] += f"{name},{split},{label},{path},{mask_path}\n"
        (root / name / "image_anno.csv").write_text(annotations)
    (root / "split_csv").mkdir(exist_ok=True)
    for protocol, rows in tables.items():
        header = "object,split,label,image,mask\n"
        (root / "split_csv" / f"{protocol}.csv").write_text(header + rows)
    (root / ".DS_Store").write_bytes(b"\0")
    return root


def packed(folder, archive):
    """The folder's content as an archive; its suffix chooses which kind."""
    folder, archive = pathlib.Path(folder), pathlib.Path(archive)
    archive.parent.mkdir(parents=True, exist_ok=True)
    paths = sorted(folder.rglob("*"))
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in paths:
                opened.write(path, path.relative_to(folder))
        return archive
    mode = {".xz": "w:xz", ".gz": "w:gz", ".tar": "w"}[archive.suffix]
    with tarfile.open(archive, mode) as opened:
        for path in paths:
            opened.add(path, path.relative_to(folder), recursive=False)
    return archive


def png16(pixels):
    """A 16-bit PNG of uint16 [h, w, c], which Pillow cannot write.

    c is 2 (grey, alpha), 3 or 4. Every pixel is stored as the difference from the one
    to its left, as writers do it, so that a reader must know how many bytes it has.
    """
    height, width, channels = pixels.shape
    raw = pixels.astype(">u2").tobytes()
    rows = np.frombuffer(raw, np.uint8).reshape(height, width, -1)
    rows = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
    filtered = b"".join(b"\1" + row.tobytes() for row in rows)

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    colour = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(filtered))
        + chunk(b"IEND", b"")
    )


def tiff(pixels, samples, planar=False):
    """A TIFF of any array, uncompressed, as Pillow cannot write it.

    [h, w, samples], or [samples, h, w] where a channel is a plane of its own.
    """
    height, width = pixels.shape[1:] if planar else pixels.shape[:2]
    planes, content = samples if planar else 1, pixels.tobytes()
    rows = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * samples,
        259: [1],  # uncompressed
        262: [2 if samples > 2 else 1],  # RGB, or grey
        273: [0] * planes,
        277: [samples],
        278: [height],
        279: [len(content) // planes] * planes,
        284: [2 if planar else 1],
        339: [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * samples,
    }
    # Numbers that do not fit into a row of the directory come after it.
    start = 8 + 2 + 12 * len(rows) + 4
    offset = start + sum(4 * len(row) for row in rows.values() if len(row) > 1)
    rows[273] = [offset + i * (len(content) // planes) for i in range(planes)]
    directory = further = b""
    for tag, row in rows.items():
        value = row[0]
        if len(row) > 1:
            value = start + len(further)
            further += struct.pack(f"<{len(row)}I", *row)
        directory += struct.pack("<HHII", tag, 4, len(row), value)
    head = b"II*\0" + struct.pack("<IH", 8, len(rows))
    return head + directory + b"\0\0\0\0" + further + content


def encoded(made, kind="PNG", **options):
    """A PIL image as the bytes of a file."""
    buffer = io.BytesIO()
    made.save(buffer, kind, **options)
    return buffer.getvalue()
