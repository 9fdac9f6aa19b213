"""What a detector calls anomalous: a threshold for images, and one for pixels."""

import dataclasses

import numpy as np

from jaxad.detectors import threshold
from jaxad.detectors.threshold import Threshold

# What a card says where no decision was asked for.
NO_DECISION = {"threshold": None, "pixel_threshold": None}

# What a verdict on a labelled image may be: (label, whether it is called anomalous).
OUTCOMES = {
    "hit": (1, True),
    "miss": (1, False),
    "false_alarm": (0, True),
    "pass": (0, False),
}


@dataclasses.dataclass(frozen=True)
class Decision:
    """Attributes:
    images: of image scores.
    pixels: of the largest values of anomaly maps. A pixel above it is anomalous, and
      normal images have such a pixel no more often than promised.
    """

    images: Threshold
    pixels: Threshold

    def to_card(self) -> dict:
        """As `detector.json` has it."""
        return {
            "threshold": self.images.to_dict(),
            "pixel_threshold": self.pixels.to_dict(),
        }

    @classmethod
    def from_card(cls, card: dict) -> "Decision | None":
        """What `to_card` gave; None where there was none."""
        if card["threshold"] is None:
            return None
        return cls(
            Threshold.from_dict(card["threshold"]),
            Threshold.from_dict(card["pixel_threshold"]),
        )

    def outcomes(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The name in `OUTCOMES` of each image, [n]."""
        names = {key: name for name, key in OUTCOMES.items()}
        verdicts = self.images.verdicts(scores)
        pairs = zip(np.asarray(labels).tolist(), verdicts.tolist(), strict=True)
        return np.array([names[pair] for pair in pairs], "<U11")

    def results(self, scores: np.ndarray, labels: np.ndarray) -> dict:
        """What results say: the decision, and how it fares on a labelled split."""
        verdicts = self.images.verdicts(scores)
        return {
            **self.images.to_dict(),
            "pixel_value": self.pixels.value,
            "guarantee": self.images.guarantee(),
            "test": {
                "false_alarms": _share(verdicts[labels == 0]),
                "misses": _share(~verdicts[labels == 1]),
            },
        }


def _share(found: np.ndarray) -> dict | None:
    """How many, of how many, and the exact 95 % interval of the rate."""
    if not len(found):
        return None
    count = int(found.sum())
    low, high = threshold.proportion_interval(count, len(found))
    return {
        "count": count,
        "of": len(found),
        "rate": count / len(found),
        "interval": [low, high],
    }


def decide(config, kind: str, scores: np.ndarray, maxima: np.ndarray) -> Decision:
    """The decision that `config.threshold` asks for.

    Args:
      config: of the run.
      kind: how the images were scored, one of `threshold.METHODS`.
      scores: of good images that nothing was fitted on, [n].
      maxima: the largest values of their anomaly maps, [n].
    """
    asked = config.threshold
    images, pixels = (
        threshold.calibrate(
            values,
            method=kind,
            rate=asked.false_alarms,
            confidence=asked.confidence or None,
        )
        for values in (scores, maxima)
    )
    return Decision(images, pixels)
