"""TFDS's own test case on every builder. The only tests that import TensorFlow."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    import tensorflow  # noqa: F401
    import tensorflow_datasets as tfds

import pytest

from tfds_builders import btad, elpv, mvtec_ad, visa

pytestmark = pytest.mark.filterwarnings("ignore")


class ElpvTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = elpv.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["mono", "poly"]
    SPLITS = {"train": 3, "test": 4}


class ElpvUncertainTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = elpv.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["mono_uncertain", "poly_uncertain"]
    SPLITS = {"train": 3, "test": 4, "uncertain": 2}


class MvtecAdTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = mvtec_ad.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["bottle", "grid"]
    SPLITS = {"train": 3, "test": 4}


class VisaOneClassTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = visa.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["candle_1cls", "pcb1_1cls"]
    SPLITS = {"train": 3, "test": 5}


class VisaTwoClassTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = visa.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["candle_2cls_highshot"]
    SPLITS = {"train": 3, "test": 5}


class VisaFewShotTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = visa.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["candle_2cls_fewshot"]
    SPLITS = {"train": 4, "test": 4}


class BtadTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = btad.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["01", "03"]
    SPLITS = {"train": 3, "test": 4}
