"""Where stages are kept."""

from jaxad.run import stages


def test_checkpoints_of_other_images_are_removed_and_their_curves_stay(
    tmp_path, caplog
):
    stages._forget_other(tmp_path, "some images")
    (tmp_path / "25").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    stages._forget_other(tmp_path, "some images")
    assert (tmp_path / "25").is_dir() and not caplog.text
    stages._forget_other(tmp_path, "other images")
    assert not (tmp_path / "25").exists() and "begins again" in caplog.text
    assert (tmp_path / "metrics.jsonl").exists()
