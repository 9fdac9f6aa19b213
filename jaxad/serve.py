"""Judges the images that others send, over HTTP, with the detectors of a run.

  python -m jaxad.serve --run RUN [--port 8000]

RUN is a run, whose finished categories are all served, or one detector. It needs the
extra `jaxad[serve]`.

* POST /v1/predict: one image or several, as a form or as JSON with base64, to score,
  p-value, verdict and regions; with `map=picture` or `map=values` also the anomaly map.
* GET /v1/categories, /healthz, /readyz, /metrics (Prometheus), /openapi.json.
* / is a page to drop pictures on.

It listens on this machine alone; `--host 0.0.0.0` lets others in, without a password
and without encryption. SIGTERM and Ctrl-C end it when what has come is answered. The
log is a line of JSON for each request.
"""

import pathlib

from absl import flags

from jaxad import command_line
from jaxad.errors import InputError
from jaxad.inference import places

# Where nobody else can come from.
_OWN = ("127.0.0.1", "localhost", "::1")


def main(values) -> None:
    """Serves what the flags say, until it is told to stop."""
    folders = places.find_all(values.run)
    try:
        from jaxad.serving import server
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == "jaxad":
            raise
        raise InputError(
            f"serving needs {error.name}, which is not installed; install it with pip "
            "install 'jaxad[serve]'"
        ) from None
    with server.bind(values.host, values.port) as listening:
        _serve(values, folders, server, listening)


def _serve(values, folders: list[pathlib.Path], server, listening) -> None:
    from jaxad.inference import predictor
    from jaxad.serving.refusals import Limits
    from jaxad.serving.service import Service

    server.log_lines()
    predictors = {}
    for folder in folders:
        one = predictor.load(folder)
        predictors[one.card["category"]] = one
    limits = Limits(values.max_megabytes << 20, values.max_pixels, values.queue)
    service = Service(predictors, limits, values.batch_size)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(
        f"Serving {', '.join(predictors)} on http://{shown}:{port}; ready when /readyz "
        "says so",
        flush=True,
    )
    if values.host not in _OWN:
        print(
            f"Everybody who reaches {shown} may ask, unencrypted; put a proxy with TLS "
            "and a password in front, or leave --host out",
            flush=True,
        )
    server.serve(service, listening)


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Folder of a run, or of one detector.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at.")
    flags.DEFINE_integer(
        "port", 8000, "Port to listen at; 0 takes a free one.", 0, 65535
    )
    flags.DEFINE_integer(
        "batch_size", 8, "Images that are computed at once, at most.", 1, 256
    )
    flags.DEFINE_integer(
        "queue", 128, "Images that are worked on or wait; more are refused.", 1
    )
    flags.DEFINE_integer("max_megabytes", 32, "Of the body of a request.", 1)
    flags.DEFINE_integer("max_pixels", 89_478_485, "Of an image.", 1)
    command_line.run(lambda: main(flags.FLAGS), "serve", ("run",))
