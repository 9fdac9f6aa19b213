"""A service under load: jaxad serve beside anomalib's inferencer behind FastAPI.

  python benchmarks/serve.py --run RUN [--peer-python PYTHON] [--seconds 600]

RUN is a finished run of configs/patchcore_elpv.py. Both services run all the time, on
one machine, by loopback; clients ask one of them at a time, in short turns, so that
what else the machine does meets both. Each client sends an image of 300 x 300, waits
for the answer, and sends the next. Both have the same weights and memory bank; anomalib
has no queue, and FastAPI calls it from as many threads as it has by default.

Then come 1,000 hostile bodies, to jaxad alone, while one more client sends images.
"""

import argparse
import base64
import collections
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

_HERE = pathlib.Path(__file__).parent
_CLIENTS = (1, 8, 64)
_TURN = 10  # seconds


def form(content: bytes, name: str = "part.png") -> tuple[bytes, dict]:
    """Body and head of a request with a file."""
    part = f'Content-Disposition: form-data; name="image"; filename="{name}"'
    body = f"--x\r\n{part}\r\n\r\n".encode() + content + b"\r\n--x--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=x"}


def listed(*contents: bytes) -> tuple[bytes, dict]:
    """The same in JSON."""
    images = [{"data": base64.b64encode(one).decode()} for one in contents]
    return json.dumps({"images": images}).encode(), {"Content-Type": "application/json"}


class Client:
    """A connection that is kept."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def __call__(self, body: bytes, head: dict) -> tuple[int, bytes]:
        self._connection.request("POST", "/v1/predict", body, head)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self._connection.close()


def loaded(port: int, files: list[bytes], clients: int, seconds: float):
    """Seconds of every answer, and those of all together."""
    found, end = [], time.perf_counter() + seconds

    def ask(first: int) -> None:
        client, number = Client(port), first
        while time.perf_counter() < end:
            start = time.perf_counter()
            status, answer = client(*form(files[number % len(files)]))
            assert status == 200, answer
            found.append(time.perf_counter() - start)
            number += 1
        client.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for client in [pool.submit(ask, 7 * i) for i in range(clients)]:
            client.result()  # a request that was not answered is an error
    return found, time.perf_counter() - start


def memory(process: subprocess.Popen) -> float:
    """MB that a process has in memory."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the process has no memory")


# ---- Hostile bodies


def bomb(side: int) -> bytes:
    """A PNG that says it has many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000_000), 9)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
        + [chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def hostile(files: list[bytes], count: int):
    """Kind, body and head of each; all of a seed."""
    chance, large = random.Random(0), bytes(40 << 20)
    bombs, whole = [bomb(100_000), bomb(9_000)], form(files[0])

    def truncated(file):
        return form(file[: chance.randrange(8, len(file) - 100)])

    kinds = {
        "truncated": truncated,
        "truncated, JSON": lambda file: listed(file[: chance.randrange(8, 5000)]),
        "form cut off": lambda file: (whole[0][:-6], whole[1]),
        "noise": lambda file: form(chance.randbytes(chance.randrange(1, 50_000))),
        "noise as a form": lambda file: (chance.randbytes(5000), whole[1]),
        "noise as JSON": lambda file: (chance.randbytes(5000), listed()[1]),
        "empty": lambda file: form(b""),
        "zip": lambda file: form(b"PK\3\4" + chance.randbytes(5000)),
        "PostScript": lambda file: form(b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(500)),
        "bomb": lambda file: form(chance.choice(bombs)),
        "packed": lambda file: (zlib.compress(bytes(10**7)),
                                whole[1] | {"Content-Encoding": "gzip"}),
        "wrong type": lambda file: (file, {"Content-Type": "image/png"}),
        "path as a file": lambda file: (
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n/etc/passwd'
            b"\r\n--x--\r\n", whole[1]),
        "path as a name": lambda file: form(file, "../../etc/passwd"),
        "path in JSON": lambda file: (b'{"images": [{"data": "/etc/passwd"}]}',
                                      listed()[1]),
        "deep JSON": lambda file: (b"[" * 100_000, listed()[1]),
        "NaN": lambda file: (b'{"images": NaN}', listed()[1]),
    }  # fmt: skip
    for i in range(count):
        kind = chance.choice(list(kinds))
        if i % 50 == 0:
            yield "huge", large, listed()[1]
        else:
            yield kind, *kinds[kind](chance.choice(files))


def attacked(port: int, files: list[bytes], count: int):
    """Statuses by kind, and the seconds and scores of images sent meanwhile."""
    statuses, honest, done = collections.defaultdict(collections.Counter), [], []

    def ask() -> None:
        client = Client(port)
        while not done:
            start = time.perf_counter()
            status, answer = client(*form(files[0]))
            assert status == 200, answer
            score = json.loads(answer)["results"][0]["score"]
            honest.append((time.perf_counter() - start, score))
        client.close()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            for kind, body, head in hostile(files, count):
                client = Client(port)
                status, answer = client(body, head)
                statuses[kind][status, json.loads(answer)["error"]["code"]] += 1
                client.close()
        finally:
            done.append(True)
        asking.result()
    return statuses, honest


# ---- All of it


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_ready(port: int, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except ConnectionRefusedError:
            pass
        time.sleep(0.2)
    sys.exit(f"{' '.join(process.args)} has ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--hostile", type=int, default=1000)
    arguments = parser.parse_args()
    import elpv_dataset
    import numpy as np

    from jaxad.inference import folder as detector_folder

    root = pathlib.Path(elpv_dataset.__file__).parent / "data/images"
    files = [path.read_bytes() for path in sorted(root.glob("*.png"))[:64]]
    (member,) = detector_folder.load(arguments.run).members
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "bank.npy", np.asarray(member.state["memory_bank"]))
        peer = arguments.peer_python
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        subprocess.run(
            [peer, str(_HERE / "anomalib_predict.py")]
            + ["export", str(folder / "bank.npy"), str(folder)],
            env=environment,
            capture_output=True,
            check=True,
        )
        (model,) = folder.rglob("*.pt")
        ports = {"jaxad": free_port(), "anomalib": free_port()}
        threads = str(arguments.threads)
        commands = {
            "jaxad": [sys.executable, "-m", "jaxad.serve", "--run", arguments.run]
            + ["--port", str(ports["jaxad"])],
            "anomalib": [peer, str(_HERE / "anomalib_serve.py"), str(model)]
            + [str(ports["anomalib"]), threads],
        }
        services = {}
        try:
            for name, command in commands.items():
                services[name] = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=open(folder / f"{name}.log", "w"),  # noqa: SIM115
                )
                wait_ready(ports[name], services[name])
            under_load(ports, services, files, arguments.seconds)
            under_attack(ports["jaxad"], services["jaxad"], files, arguments.hostile)
            services["jaxad"].send_signal(signal.SIGTERM)
            print(f"\njaxad ended with status {services['jaxad'].wait(60)}")
        finally:
            for service in services.values():
                service.kill()


def under_load(ports: dict, services: dict, files: list[bytes], seconds: float) -> None:
    turns = [(clients, name) for clients in _CLIENTS for name in ports]
    rounds = max(1, round(seconds / len(turns) / _TURN))
    length = seconds / len(turns) / rounds
    waited = {turn: [] for turn in turns}
    rates = {turn: [] for turn in turns}
    spent = {turn: 0.0 for turn in turns}
    grown = {name: [] for name in ports}
    for turn in turns:  # threads, buffers
        loaded(ports[turn[1]], files, turn[0], 1)
    for _ in range(rounds):
        for turn in turns:
            before = cpu(services[turn[1]])
            found, took = loaded(ports[turn[1]], files, turn[0], length)
            spent[turn] += cpu(services[turn[1]]) - before
            waited[turn] += found
            rates[turn].append(len(found) / took)
        for name, process in services.items():
            grown[name].append(memory(process))
    print(
        f"{rounds} rounds of {length:.0f} s a turn\n\n"
        "| clients | | requests/s | p50, ms | p99, ms | CPU ms a request |\n"
        "|--:|---|--:|--:|--:|--:|"
    )
    for clients, name in turns:
        turn = clients, name
        times = sorted(waited[turn])
        print(
            f"| {clients} | {name} | {statistics.median(rates[turn]):.1f} "
            f"| {1e3 * times[len(times) // 2]:.0f} "
            f"| {1e3 * times[int(0.99 * len(times))]:.0f} "
            f"| {1e3 * spent[turn] / len(times):.0f} |"
        )
    for clients in _CLIENTS:
        pairs = zip(rates[clients, "jaxad"], rates[clients, "anomalib"], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        print(
            f"\n{clients} clients: jaxad / anomalib {statistics.median(ratios):.2f}, "
            f"by round {min(ratios):.2f} to {max(ratios):.2f}",
            end="",
        )
    print()
    for name, found in grown.items():
        print(
            f"{name}: {found[0]:.0f} MB after the first round, {found[-1]:.0f} after "
            f"the last, {max(found):.0f} at most"
        )


def cpu(process: subprocess.Popen) -> float:
    """Seconds that all threads of a process have had."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2]
    user, system = map(int, fields.split()[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def under_attack(port: int, process, files: list[bytes], count: int) -> None:
    if not count:
        return
    alone = {loaded_score(port, files[0]) for _ in range(5)}
    before = memory(process)
    statuses, honest = attacked(port, files, count)
    print(f"\n{count} hostile bodies:\n\n| | answers |\n|---|---|")
    for kind, counted in sorted(statuses.items()):
        shown = ", ".join(
            f"{number} x {status} `{code}`"
            for (status, code), number in sorted(counted.items())
        )
        print(f"| {kind} | {shown} |")
    wrong = [
        (kind, status)
        for kind, counted in statuses.items()
        for status, _ in counted
        if not 400 <= status < 500
    ]
    answered = sum(sum(counted.values()) for counted in statuses.values())
    times = sorted(seconds for seconds, _ in honest)
    scores = {score for _, score in honest}
    gap = max(abs(x - y) / y for x in scores for y in alone)
    print(
        f"\n{answered} of {count} answered, {len(wrong)} kinds not by 4xx; meanwhile "
        f"{len(honest)} images were judged, none lost, p50 "
        f"{1e3 * times[len(times) // 2]:.0f} ms, p99 "
        f"{1e3 * times[int(0.99 * len(times))]:.0f} ms, scores within {gap:.1e}; "
        f"memory {before:.0f} MB before, {memory(process):.0f} after"
    )


def loaded_score(port: int, file: bytes) -> float:
    client = Client(port)
    _, answer = client(*form(file))
    client.close()
    return json.loads(answer)["results"][0]["score"]


if __name__ == "__main__":
    main()
