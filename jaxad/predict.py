"""Judges images with the detector of a run.

  python -m jaxad.predict --run RUN[/CATEGORY] --images DIR|CSV|FILE [--out DIR]

DIR is gone through with all folders in it; a CSV names images in its column `file`. In
`--out`, by default `predictions/<name of the images>`, lie

* predictions.csv: file, score, p-value, verdict, error, and the regions above the
  threshold of pixels, a JSON list of [x, y, width, height, area] in the image's own
  pixels. An image that cannot be read has its error there, and ends nothing.
* maps/: a picture an image, under its own name.
* predictions.json: the detector, the images and the thresholds.

The same command again goes on where it was stopped. Exit status: 0; 3 with
`--fail_on_anomaly` where an image is anomalous; 2 for a mistake.
"""

import os
import pathlib

from absl import flags

from jaxad import command_line
from jaxad.errors import InputError
from jaxad.inference import places

MAPS = ("all", "anomalous", "none")  # as `judge.MAPS`, which takes long to import


def main(values) -> int:
    """Judges what the flags say; gives the exit status."""
    places.find(values.run)
    command_line.require_there(images=values.images)
    from jaxad.inference import journal, judge, predictor, watch
    from jaxad.run import results

    if values.watch and values.fdr is not None:
        raise InputError(
            "--fdr judges all images together, and --watch has no last one"
        )
    images = pathlib.Path(values.images).expanduser().resolve()
    name = images.name if images.is_dir() else images.stem
    out = values.out or os.path.join("predictions", name)
    detector = predictor.load(values.run)
    if values.fail_on_anomaly and detector.threshold is None:
        raise InputError(
            f"--fail_on_anomaly needs verdicts, and {values.run} has no threshold; fit "
            "one with config.threshold"
        )
    options = {"maps": values.maps, "versions": results.versions()}
    if values.watch:
        with watch.stopping() as stop:
            summary = judge.follow(detector, images, out, stop, **options)
    else:
        summary = judge.judge(detector, images, out, fdr=values.fdr, **options)
    print(summary)
    print(f"Predictions: {os.path.join(out, journal.TABLE)}")
    if values.maps != "none":
        print(f"Heat maps: {os.path.join(out, journal.MAPS)}")
    return 3 if values.fail_on_anomaly and summary.anomalous else 0


if __name__ == "__main__":
    flags.DEFINE_string(
        "run", None, "Folder of a run, a category inside it, or an exported detector."
    )
    flags.DEFINE_string("images", None, "A folder, a CSV, or an image.")
    flags.DEFINE_string("out", None, "Folder of what is found.")
    flags.DEFINE_enum(
        "maps", "all", MAPS, "Which images get a picture, of those judged now."
    )
    flags.DEFINE_float(
        "fdr",
        None,
        "Judges all images together, in place of the threshold: on average at most "
        "this share of the images called anomalous is normal.",
    )
    flags.DEFINE_bool(
        "watch", False, "Follows a folder, until SIGTERM or Ctrl-C ends it."
    )
    flags.DEFINE_bool(
        "fail_on_anomaly", False, "Ends with status 3 where an image is anomalous."
    )
    flags.DEFINE_alias("fail-on-anomaly", "fail_on_anomaly")
    command_line.run(lambda: main(flags.FLAGS), "predict", ("run", "images"))
