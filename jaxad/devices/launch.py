"""From the start of all processes of a run to the end of all of them.

JAX ends the processes that are left when another one has died, late and in words of its
own. Here a thread in every process listens, so that whatever ends one of them ends all,
within seconds and with a sentence that says which and why: also those that wait in a
collective, where the main thread hears nothing.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
import numpy as np

from jaxad.devices import processes, sharding
from jaxad.errors import InputError, Preempted, ending

_POLL = 1.0  # seconds
_LOST = 30  # polls after which a process that has not been heard of is taken for lost
_HEARD = 10  # seconds that one which fails waits until all others know
_JOIN = 300  # seconds in which all processes must have started
# JAX's own, for when even the listening threads have stopped.
_HEARTBEAT = 90


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Makes this process one of a run's. To be entered before JAX is used.

    Args:
      coordinator: address:port where the first process can be reached by all.
      num_processes: how many there are; 1 looks for no others.
      process_id: which one this is, from 0. Where a TPU pod, Slurm or Kubernetes tells,
        all three may be left out.

    Raises:
      InputError: too few are given, or not all processes have come.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not _initialise(coordinator, num_processes, process_id):
        yield
        return
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, before)  # JAX has put its own there
        yield
        return
    listener = _Listener()
    try:
        _connect()
        yield
    except BaseException as error:
        if not isinstance(error, Preempted):
            listener.fail(error)
        processes.wait()
        listener.stop()
        jax.distributed.shutdown()
        raise
    processes.wait()
    listener.stop()
    jax.distributed.shutdown()


def _initialise(coordinator, num_processes, process_id) -> bool:
    """Whether there are processes to be joined."""
    if num_processes == 1:
        return False
    given = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    named = any(value is not None for value in given.values())
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=_JOIN,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except ValueError as error:
        if not named and "JAX_COORDINATOR_ADDRESS" not in os.environ:
            return False  # nothing says that there are others
        raise InputError(
            "--coordinator=ADDRESS:PORT, --num_processes and --process_id (from 0) "
            f"are all needed where no cluster tells them ({error})"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"not all {num_processes or ''} processes have come together at "
            f"{coordinator or 'the coordinator'} within {_JOIN} seconds; start the "
            "same command on every host, each with another --process_id "
            f"({str(error).splitlines()[0]})"
        ) from None
    except RuntimeError as error:  # as where a pod may not ask who is with it
        raise InputError(
            f"the cluster does not tell who takes part ({error}); give "
            "--num_processes=1 to run alone, or --coordinator, --num_processes and "
            "--process_id"
        ) from None
    return True


def _connect() -> None:
    """The first collectives among processes, and among devices, of which each connects
    all: on CPUs they fail where some come half a minute after others."""
    processes.wait()
    processes.gather(None)
    mesh = sharding.make_mesh()
    sharding.fetch(sharding.split_rows(np.zeros(mesh.size, np.float32), mesh))


class _Listener:
    """The thread that tells others that this process lives, and hears how they end."""

    def __init__(self):
        self._me, self._client = jax.process_index(), processes.client()
        self._others = set(range(jax.process_count())) - {self._me}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def fail(self, error: BaseException) -> None:
        """Tells all others what has ended this process, and ends it."""
        if isinstance(error, jax.errors.JaxRuntimeError):
            # More likely than not another process has left a collective: the thread
            # will hear of it, and end this one.
            time.sleep((_LOST + 5) * _POLL)
        self.stop()
        found = ending(error)
        if found is None:
            traceback.print_exception(error)
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            found = 1, f"error: failed with {text}; its own output says where"
        self._tell(self._me, *found)
        self._leave(found[0], None if found[0] == 1 else found[1])

    def _tell(self, process: int, status: int, text: str) -> None:
        content = json.dumps({"process": process, "status": status, "text": text})
        # Another may have been faster; its word holds.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set("jaxad/end/first", content)

    def _leave(self, status: int, text: str | None) -> None:
        """Ends this process: what is on disk is whole, and nothing else is left."""
        if text is not None:
            print(text, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"jaxad/heard/{self._me}", "")
            give_up = time.monotonic() + _HEARD
            # The others hear through the first one, so it goes last.
            while self._me == 0 and time.monotonic() < give_up:
                heard = self._client.key_value_dir_get("jaxad/heard/")
                if len(heard) > len(self._others):
                    break
                time.sleep(_POLL / 10)
        os._exit(status)

    def _listen(self) -> None:
        count, silent, last = 0, dict.fromkeys(self._others, 0), {}
        mine = f"jaxad/alive/{self._me}"
        while not self._stopped.wait(_POLL):
            count += 1
            try:
                self._client.key_value_set(mine, str(count), allow_overwrite=True)
                ended = self._client.key_value_dir_get("jaxad/end/")
                alive = self._client.key_value_dir_get("jaxad/alive/")
            except jax.errors.JaxRuntimeError:
                self._leave(75, _lost(0))
            if ended:
                word = json.loads(ended[0][1])
                self._leave(
                    word["status"], f"process {word['process']}: {word['text']}"
                )
            if self._me:
                continue
            # Polls are counted, not seconds, so that a machine that slept loses nobody.
            alive = {int(name.rpartition("/")[2]): value for name, value in alive}
            for process in self._others:
                still = alive.get(process) == last.get(process)
                silent[process] = silent[process] + 1 if still else 0
                if silent[process] > _LOST:
                    self._tell(process, 75, _lost(process))
                    self._others = self._others - {process}  # hears nothing any more
            last = alive


def _lost(process: int) -> str:
    return (
        f"error: process {process} has not been heard of for {_LOST} seconds; see its "
        "own output, and start the same command again on all: it goes on from here"
    )
