"""What is answered of one image."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from jaxad.inference import journal, pictures
from jaxad.inference.predictor import Predictor, Result
from jaxad.inference.regions import regions
from jaxad.serving.refusals import Refusal
from jaxad.serving.uploads import Map, Opened

_VERDICTS = {None: None, True: journal.ANOMALOUS, False: journal.NORMAL}


def answer(
    predictor: Predictor, opened: Opened, computed: tuple, wanted: Map
) -> dict[str, Any]:
    """The fields of `app.Result`, but for its note.

    Args:
      predictor: that has judged.
      opened: the image.
      computed: its score, and its map at the detector's size.
      wanted: of the map.

    Raises:
      Refusal: there is no score.
    """
    result = predictor.result(opened.read, *computed)
    if result.error is not None:
        raise Refusal(422, "no_score", result.error)
    limit, (height, width) = predictor.pixel_threshold, opened.read.size
    verdict = _VERDICTS[result.is_anomalous]
    found = {
        "name": result.name,
        "width": width,
        "height": height,
        "score": result.score,
        "p_value": result.p_value,
        "verdict": verdict,
        "regions": None if limit is None else regions(result.map, limit),
    }
    if wanted == "picture":
        found["map"] = {"png": _png(_picture(predictor, opened, result))}
    elif wanted == "values":
        low, high = float(np.nanmin(result.map)), float(np.nanmax(result.map))
        levels = Image.fromarray(pictures.levels(result.map, low, high))
        found["map"] = {"png": _png(levels), "low": low, "high": high}
    return found


def _picture(predictor: Predictor, opened: Opened, result: Result) -> Image.Image:
    """As `jaxad predict` draws it."""
    threshold = predictor.threshold
    return pictures.render(
        opened.picture,
        result.map,
        pictures.Scale.of(result.map, predictor.pixel_threshold),
        title=result.name,
        details=pictures.score_details(
            result.score, threshold and threshold.value, result.p_value
        ),
        verdict=_VERDICTS[result.is_anomalous],
    )


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=2)
    return base64.b64encode(file.getvalue()).decode()
