"""TFDS's own test case on every builder. The only test that imports TensorFlow."""

import unittest
import warnings

import pytest

from tfds_builders import btad, elpv, mvtec_ad, visa


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("builder", "configs", "splits"),
    [
        (elpv, ["mono", "poly"], {"train": 3, "test": 4}),
        (
            elpv,
            ["mono_uncertain", "poly_uncertain"],
            {"train": 3, "test": 4, "uncertain": 2},
        ),
        (mvtec_ad, ["bottle", "grid"], {"train": 3, "test": 4}),
        (visa, ["candle_1cls", "pcb1_1cls"], {"train": 3, "test": 5}),
        (visa, ["candle_2cls_highshot"], {"train": 3, "test": 5}),
        (visa, ["candle_2cls_fewshot"], {"train": 4, "test": 4}),
        (btad, ["01", "03"], {"train": 3, "test": 4}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_builder_is_what_tfds_asks_for(builder, configs, splits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        import tensorflow  # noqa: F401
        import tensorflow_datasets as tfds

    case = type(
        "BuilderTest",
        (tfds.testing.DatasetBuilderTestCase,),
        {
            # Where the case looks for the builder's dummy data.
            "__module__": __name__,
            "DATASET_CLASS": builder.Builder,
            "BUILDER_CONFIG_NAMES_TO_TEST": configs,
            "SPLITS": splits,
        },
    )
    suite, result = unittest.TestSuite(), unittest.TestResult()
    suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    suite.run(result)
    assert result.testsRun > 0 and result.wasSuccessful(), "\n".join(
        text for _, text in result.failures + result.errors
    )
