"""TFDS's own test case on every builder. The only tests that import TensorFlow."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    import tensorflow  # noqa: F401
    import tensorflow_datasets as tfds

import pytest

from tfds_builders import elpv

pytestmark = pytest.mark.filterwarnings("ignore")


class ElpvTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = elpv.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["mono", "poly"]
    SPLITS = {"train": 3, "test": 4}


class ElpvUncertainTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = elpv.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["mono_uncertain", "poly_uncertain"]
    SPLITS = {"train": 3, "test": 4, "uncertain": 2}
