import pytest

from jaxad import config as config_lib
from jaxad.errors import InputError
from jaxad.run import pipeline as pipeline_lib


def config(**fields):
    made = config_lib.base()
    made.update_from_flattened_dict({name: value for name, value in fields.items()})
    return made


def test_members_are_completed_from_the_backbone():
    (member,) = pipeline_lib.members(config(**{"backbone.name": "dinov2_vits14"}))
    assert member.backbone.taps == ("norm",)
    assert member.dataset.image_size == (448, 448)


def test_what_is_given_stays():
    given = {"backbone.taps": ("layer1",), "dataset.image_size": (64, 32)}
    (member,) = pipeline_lib.members(config(**{"backbone.name": "resnet18", **given}))
    assert member.backbone.taps == ("layer1",)
    assert member.dataset.image_size == (64, 32)


def test_members_of_an_ensemble_see_images_of_one_size():
    names = ("resnet18", "dinov2_vits14")
    first, second = pipeline_lib.members(config(**{"ensemble.members": names}))
    assert (first.backbone.name, second.backbone.name) == names
    assert first.backbone.taps == ("layer2", "layer3")
    assert second.backbone.taps == ("norm",)
    assert first.dataset.image_size == second.dataset.image_size == (224, 224)


def test_an_ensemble_names_no_backbone_twice():
    names = ("resnet18", "resnet18")
    with pytest.raises(InputError, match="names a backbone twice"):
        pipeline_lib.members(config(**{"ensemble.members": names}))


def test_a_crop_is_checked_against_the_backbone_s_size():
    fields = {"dataset.resize": "resize_crop", "dataset.resize_to": 128}
    with pytest.raises(InputError, match="dataset.resize_to=128 must be at least"):
        pipeline_lib.members(config(**fields))


def test_a_run_names_in_one_line_what_has_no_effect(caplog):
    used = config(**{"coreset.ratio": 0.1, "patches.descriptor": "pooled"})
    with caplog.at_level("INFO"):
        pipeline_lib.tell_idle(used)
        assert not caplog.records
        used.detector.name = "padim"
        used.coreset.projection_dim = 64
        used.threshold.folds = 3
        used.threshold.calibration = "none"
        pipeline_lib.tell_idle(used)
    assert caplog.messages == [
        "without effect: config.coreset.ratio, config.coreset.projection_dim with "
        "config.detector.name=padim; config.threshold.folds with "
        "config.threshold.calibration=none"
    ]
