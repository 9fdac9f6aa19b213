"""A detector of one's own: how far a patch is from the mean of all normal ones."""

import jax.numpy as jnp
import numpy as np

from jaxad import fields
from jaxad.detectors.base import Scored, Scorer, image_score
from jaxad.errors import InputError


def build(config):
    options = config.detector.to_dict()
    fields.require(
        options["image_score"] != "reweighted",
        "detector.image_score",
        "reweighted",
        "max or top_fraction with this detector",
    )

    def fit(normal):
        rows = normal.rows.take(np.arange(len(normal.rows)))
        return {"mean": rows.mean(0)}, {"spread": float(rows.std())}

    def score(state, described):
        patches = jnp.linalg.norm(described - state["mean"][None, None, None], axis=-1)
        return Scored(patches, image_score(options, patches))

    def check(images, grid, width):
        if images < 2:
            raise InputError(f"a mean of {images} image is none; give 2 or more")

    return Scorer(fit=fit, score=score, check=check)
