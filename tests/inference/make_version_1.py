"""Writes fixtures/version_1, a detector in format 1, and what it says of a ramp.

  PYTHONPATH=tests python tests/inference/make_version_1.py

Not to be run again: that the files stay as they are is what they are for.
"""

import json
import pathlib
import tempfile

import numpy as np
import runs

from jaxad.inference import folder, predictor
from jaxad.run import experiment

HERE = pathlib.Path(__file__).parent / "fixtures"


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        images = runs.category(place / "cap")
        config = runs.config(images, **{"coreset.ratio": 0.05})
        experiment.run(config, str(place / "run"))
        folder.copy(place / "run", HERE / "version_1")
    detector = predictor.load(HERE / "version_1")
    ramp = np.linspace(0, 255, 32 * 32 * 3).astype(np.uint8).reshape(32, 32, 3)
    result = detector.predict(ramp)
    content = {
        "score": result.score,
        "p_value": result.p_value,
        "threshold": detector.threshold.value,
        "map_maximum": float(result.map.max()),
    }
    (HERE / "version_1.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
