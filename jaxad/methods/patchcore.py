"""PatchCore: the method that learns nothing.

A frozen backbone describes the patches; the memory bank does the rest.

References:
  Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022
  (arXiv:2106.08265).
"""

from jaxad import patches
from jaxad.methods.base import Backbone, Method, identity


def build(config, backbone: Backbone) -> Method:
    """PatchCore's descriptors (section 3.1) with the config's `patches` fields."""
    describe = patches.descriptor(config.patches)

    def features(params, images):
        return describe(backbone.levels(params["backbone"], images))

    return Method(features, identity)
