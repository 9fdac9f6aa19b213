"""The fields of ReConPatch: `config.method` of `jaxad.methods.reconpatch`.

(ours) marks what the paper does not say, (inferred) what independent reproductions take
to be its own.
"""

import ml_collections

from jaxad import fields as fields_lib
from jaxad.fields import (
    ABOVE_0,
    NOT_ALL,
    NOT_NEGATIVE,
    SHARE,
    Field,
    at_least,
    defaults,
    require,
)

FIELDS = dict(
    name=Field("reconpatch", "this method"),
    dim=Field(
        512, "width of f's output, the dimension of the memory bank", at_least(1)
    ),
    projection_dim=Field(128, "width of g's output (ours)", at_least(1)),
    alpha=Field(
        0.5,
        "share of the pairwise similarity, the rest is contextual (inferred)",
        SHARE,
    ),
    sigma=Field(0.5, "bandwidth of the pairwise similarity (ours)", ABOVE_0),
    k=Field(5, "neighbours in the contextual similarity (inferred)", at_least(1)),
    margin=Field(
        1.0, "of the loss, in units of a patch's mean distance (inferred)", ABOVE_0
    ),
    ema=Field(0.999, "decay of the slow copies (ours); 0 keeps none", NOT_ALL),
    normalise=Field(True, "slow embeddings to unit length before a comparison (ours)"),
    learning_rate=Field(1e-5, "AdamP's, annealed by a cosine at every step", ABOVE_0),
    weight_decay=Field(1e-2, "AdamP's", NOT_NEGATIVE),
    epochs=Field(
        120, "passes over the patches; 0 leaves f a random projection", NOT_NEGATIVE
    ),
    batch_size=Field(1024, "patches a batch (ours)", at_least(1)),
    vectorize=Field(
        1,
        "heads of several categories or seeds that one program trains; 1 trains each "
        "alone, 0 all at once; descriptors of that many categories lie on the device",
        NOT_NEGATIVE,
    ),
)


def fields() -> ml_collections.ConfigDict:
    """`config.method` with the paper's values."""
    return defaults(FIELDS)


def check(config) -> None:
    """Raises InputError, naming the field, for what cannot work."""
    options = config.method
    fields_lib.check(FIELDS, options, "method")
    below = f"below method.batch_size={options.batch_size}"
    require(options.k < options.batch_size, "method.k", options.k, below)
