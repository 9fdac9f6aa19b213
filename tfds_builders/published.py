"""What is published of each data set: its archive, its categories, its counts.

Apart from the builders, which take TFDS most of a second to import: what is not here,
or misspelt, is told before.
"""

import dataclasses
import pathlib

from jaxad.errors import NotHere


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published archive; `size` in bytes."""

    name: str
    url: str
    size: int
    sha256: str
    licence: str

    def instructions(self, folder: pathlib.Path | str = "the manual directory") -> str:
        """How a person gets the data, a sentence a line."""
        return (
            f"It is {self.name}, {self.gigabytes}, under the licence {self.licence}.\n"
            f"It comes from {self.url}\n"
            f"Put it, or the folder extracted from it, into {folder}."
        )

    @property
    def gigabytes(self) -> str:
        return f"{self.size / 1e9:.1f} GB"

    def not_here(self, downloads: pathlib.Path) -> NotHere:
        """What says how to get it; TFDS's folder of downloads is one place for it."""
        return NotHere(
            "the data set is not on this machine, and is not downloaded unasked.\n"
            f"{self.instructions(anywhere(downloads))}\n"
            "Or add --config.dataset.download=True, which downloads it.",
            f"Download {self.name}, {self.gigabytes}, under the licence "
            f"{self.licence}, from {self.url} to {downloads}?",
        )


def anywhere(downloads: pathlib.Path) -> str:
    """The folders that an archive may be put into."""
    return (
        f"{downloads / 'manual'}, or into any folder that "
        "--config.dataset.manual_dir=FOLDER names"
    )


# Images of train/good, of test/good, and of every defect in test.
MVTEC_AD = {
    "bottle": (209, 20, "broken_large 20, broken_small 22, contamination 21"),
    "cable": (
        224,
        58,
        "bent_wire 13, cable_swap 12, combined 11, cut_inner_insulation 14, "
        "cut_outer_insulation 10, missing_cable 12, missing_wire 10, "
        "poke_insulation 10",
    ),
    "capsule": (
        219,
        23,
        "crack 23, faulty_imprint 22, poke 21, scratch 23, squeeze 20",
    ),
    "carpet": (
        280,
        28,
        "color 19, cut 17, hole 17, metal_contamination 17, thread 19",
    ),
    "grid": (264, 21, "bent 12, broken 12, glue 11, metal_contamination 11, thread 11"),
    "hazelnut": (391, 40, "crack 18, cut 17, hole 18, print 17"),
    "leather": (245, 32, "color 19, cut 19, fold 17, glue 19, poke 18"),
    "metal_nut": (220, 22, "bent 25, color 22, flip 23, scratch 23"),
    "pill": (
        267,
        26,
        "color 25, combined 17, contamination 21, crack 26, faulty_imprint 19, "
        "pill_type 9, scratch 24",
    ),
    "screw": (
        320,
        41,
        "manipulated_front 24, scratch_head 24, scratch_neck 25, thread_side 23, "
        "thread_top 23",
    ),
    "tile": (230, 33, "crack 17, glue_strip 18, gray_stroke 16, oil 18, rough 15"),
    "toothbrush": (60, 12, "defective 30"),
    "transistor": (
        213,
        60,
        "bent_lead 10, cut_lead 10, damaged_case 10, misplaced 10",
    ),
    "wood": (247, 19, "color 8, combined 11, hole 10, liquid 10, scratch 21"),
    "zipper": (
        240,
        32,
        "broken_teeth 19, combined 16, fabric_border 17, fabric_interior 16, rough 17, "
        "split_teeth 18, squeezed_teeth 16",
    ),
}
# Images of train/ok, test/ok and test/ko. Numbers are missing in two of the folders.
BTAD = {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}
# By protocol: normal and anomalous images of train, then of test.
VISA = {
    "candle": ((900, 0, 100, 100), (600, 60, 400, 40), (200, 20, 800, 80)),
    "capsules": ((542, 0, 60, 100), (361, 60, 241, 40), (120, 20, 482, 80)),
    "cashew": ((450, 0, 50, 100), (300, 60, 200, 40), (100, 20, 400, 80)),
    "chewinggum": ((453, 0, 50, 100), (302, 60, 201, 40), (101, 20, 402, 80)),
    "fryum": ((450, 0, 50, 100), (300, 60, 200, 40), (100, 20, 400, 80)),
    "macaroni1": ((900, 0, 100, 100), (600, 60, 400, 40), (200, 20, 800, 80)),
    "macaroni2": ((900, 0, 100, 100), (600, 60, 400, 40), (200, 20, 800, 80)),
    "pcb1": ((904, 0, 100, 100), (602, 60, 402, 40), (201, 20, 803, 80)),
    "pcb2": ((901, 0, 100, 100), (601, 60, 400, 40), (200, 20, 801, 80)),
    "pcb3": ((905, 0, 101, 100), (604, 60, 402, 40), (201, 20, 805, 80)),
    "pcb4": ((904, 0, 101, 100), (603, 60, 402, 40), (201, 20, 804, 80)),
    "pipe_fryum": ((450, 0, 50, 100), (300, 60, 200, 40), (100, 20, 400, 80)),
}
CATEGORIES = {
    "elpv": ("mono", "poly"),
    "mvtec_ad": tuple(MVTEC_AD),
    "visa": tuple(VISA),
    "btad": tuple(BTAD),
}
# Of which tables have means beside that of all, as ReConPatch's 4 and 5.
_TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
GROUPS = {
    "objects": tuple(name for name in MVTEC_AD if name not in _TEXTURES),
    "textures": _TEXTURES,
}
ARCHIVES = {
    "mvtec_ad": Archive(
        name="mvtec_anomaly_detection.tar.xz",
        url=(
            "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/"
            "download/420938113-1629960298/mvtec_anomaly_detection.tar.xz"
        ),
        size=5_264_982_680,
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        licence="CC BY-NC-SA 4.0",
    ),
    "visa": Archive(
        name="VisA_20220922.tar",
        url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        size=1_929_840_640,
        sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        licence="CC BY 4.0",
    ),
    "btad": Archive(
        name="btad.zip",
        url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
        size=1_229_193_337,
        sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        licence="CC BY-SA 4.0",
    ),
}
