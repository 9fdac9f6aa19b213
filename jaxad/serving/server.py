"""The process: its port, its log, its end."""

import contextlib
import datetime
import errno
import json
import logging
import socket
import threading

import uvicorn

from jaxad.errors import InputError
from jaxad.inference import watch
from jaxad.serving import app
from jaxad.serving.service import Service

_GRACE = 30  # seconds in which requests are answered after SIGTERM
_LOG = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Listens at an address; who asks waits until `serve` answers.

    Raises:
      InputError: it is in use, or none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"--host={host} is no address ({error.strerror})") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()  # or another one could, while this one still starts
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is in use; end what uses it, or choose another "
                "--port"
            ) from None
        if error.errno == errno.EACCES:
            raise InputError(
                f"port {port} is not for everybody; choose a --port from 1024 on"
            ) from None
        raise InputError(
            f"--host={host} is no address of this machine ({error.strerror})"
        ) from None
    return found


def serve(service: Service, listening: socket.socket) -> None:
    """Answers until SIGTERM or Ctrl-C; then what is in flight, and no more.

    The next signal ends the process at once.

    Raises:
      Exception: what has ended the service by itself.
    """
    config = uvicorn.Config(
        app.make(service),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    with watch.stopping() as stop:
        service.start()
        try:
            _Server(config, service, stop).run([listening])
        finally:
            service.stop()
    if service.batcher.failure is not None:
        raise service.batcher.failure


class _Server(uvicorn.Server):
    """Ends when it is told, or when its service has ended."""

    def __init__(self, config: uvicorn.Config, service: Service, stop: threading.Event):
        super().__init__(config)
        self._service, self._stop = service, stop

    @contextlib.contextmanager
    def capture_signals(self):
        yield  # they are `serve`'s

    async def on_tick(self, counter: int) -> bool:
        if self._stop.is_set() or self._service.batcher.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)


# ---- The log


class _Lines(logging.Formatter):
    """A line of JSON each."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_lines() -> None:
    """Has the log of the process written as lines of JSON, to its standard error."""
    ours, theirs = logging.getLogger("jaxad"), logging.getLogger("uvicorn")
    for handler in ours.handlers:
        handler.setFormatter(_Lines())
    theirs.handlers, theirs.propagate = list(ours.handlers), False
    theirs.setLevel(logging.WARNING)
