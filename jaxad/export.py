"""Makes a detector of a run into one that needs nothing else.

  python -m jaxad.export --run RUN/CATEGORY --format folder --out DIR

DIR holds the detector, its backbone, preprocessing and threshold. Moved to a machine
without a network, `jaxad.load(DIR)` gives what it gives here.
"""

from absl import flags

from jaxad import command_line

_RUN = flags.DEFINE_string("run", None, "Folder of a run, or of a category inside it.")
_FORMAT = flags.DEFINE_enum("format", "folder", ["folder"], "What to make.")
_OUT = flags.DEFINE_string("out", None, "The folder to make.")


def main() -> None:
    command_line.require_there(run=_RUN.value)
    from jaxad.inference import folder

    folder.copy(_RUN.value, _OUT.value)
    print(f"Detector: {_OUT.value}")


if __name__ == "__main__":
    command_line.run(main, "export", ("run", "out"))
