"""An attack on a running service, while it goes on answering good images; and what came of it.

    PYTHONPATH=tests:examples python -m support.siege --url localhost:8001 --http localhost:8000 --model NAME

for a service that is already there; `--pid` names the tritonserver whose memory is looked at, if it is on this machine.
Exit code 0: only clean errors, and good images were answered throughout.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from server.processes import children
from vitriton import Client, InvalidImage, Options, VitritonError

from support import attacks

PAGE_BYTES = 4096
TIMEOUT_S = 300.0
_HALF_OPEN = 200  # connections, at each port

_LOOKS, _LOOK_S = 6, 0.5


@dataclass(frozen=True)
class Usage:
    """What the server takes.

    Attributes:
        pids: tritonserver and its python steps; others than before mean a restart.
        resident_bytes: of all of them.
        shared_bytes: of their regions in /dev/shm.
    """

    pids: tuple[int, ...]
    resident_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Plan:
    """One attack.

    Attributes:
        fuzz: how many fuzzed images.
        frames: of the animations without end.
        large_side: of the large pictures within the limits; 0: none of them.
        oversized_bytes: of a body beyond the limit; 0: none.
        passes: how often all of it is sent.
    """

    fuzz: int = 1000
    frames: int = 100_000
    large_side: int = attacks.LARGEST_WITHIN
    oversized_bytes: int = 0
    passes: int = 2


@dataclass
class Report:
    """What came of it.

    Attributes:
        refused: images that were refused, by the first words of the reason.
        taken: images that were answered with an embedding, and so are images after all.
        unclean: whatever else came back.
        answered: good images that were answered meanwhile.
        wrong: good images that were not, or not with their own embedding.
        usage: before the first pass and after each.
    """

    refused: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    unclean: list[str] = field(default_factory=list)
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)

    @property
    def restarted(self) -> bool:
        """Whether any process is another one than at the beginning."""
        return len({usage.pids for usage in self.usage}) > 1

    def growth(self) -> tuple[float, float]:
        """By how much the passes after the first made resident memory and /dev/shm larger: 0.05 is 5 %.

        The least of them counts: what a leak has taken is there after each, and what tritonserver has not given back
        at one moment is not.
        """
        _, first, *later = self.usage
        return (
            min(usage.resident_bytes for usage in later) / max(1, first.resident_bytes) - 1,
            min(usage.shared_bytes for usage in later) / max(1, first.shared_bytes) - 1,
        )


def usage_of(tritonserver: int) -> Usage:
    """Of a server on this machine."""
    pids = (tritonserver, *sorted(children(tritonserver)))
    resident = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES for pid in pids)
    prefixes = ("triton_python_backend_shm_region", *_shared_prefix(tritonserver))
    folder = Path(f"/proc/{tritonserver}/root/dev/shm")  # its own, where it is in a container
    shared = [path for path in folder.iterdir() if path.name.startswith(prefixes)]
    return Usage(pids, resident, sum(path.stat().st_blocks * 512 for path in shared))


def _shared_prefix(tritonserver: int) -> list[str]:
    line = Path(f"/proc/{tritonserver}/cmdline").read_bytes().decode()
    return re.findall(r"shm-region-prefix-name=(\w+)", line)


def attack(
    grpc_address: str,
    http_address: str,
    model: str,
    plan: Plan | None = None,
    usage: Callable[[], Usage] | None = None,
) -> Report:
    """Sends everything to a service, over both protocols, and asks it for good images all the while.

    Args:
        grpc_address: `host:port`, or with a scheme, as for `Client`.
        http_address: the same.
        model: the name that it was exported under.
        plan: how much.
        usage: tells what the server takes; None: nobody looks.
    """
    plan, report = plan or Plan(), Report()
    if "://" not in http_address:
        http_address = f"http://{http_address}"
    with Client(grpc_address, model=model, timeout_s=TIMEOUT_S) as client:
        expected = client.embed(list(attacks.photos()))
        if usage:
            _ordinary_traffic(grpc_address, http_address, model, report)
            report.usage.append(_settled(usage))
        for _ in range(plan.passes):
            with _good_traffic(client, expected, report), _half_open(grpc_address, http_address):
                _garbage(grpc_address, http_address)
                _send_all(grpc_address, http_address, model, plan, report)
            if usage:
                _ordinary_traffic(grpc_address, http_address, model, report)
                report.usage.append(_settled(usage))
        _compare(client.embed(list(attacks.photos())), expected, report)
    return report


def _settled(usage: Callable[[], Usage]) -> Usage:
    """The least within some seconds: memory of answers that are just being sent is not kept."""
    looks = []
    for _ in range(_LOOKS):
        looks.append(usage())
        time.sleep(_LOOK_S)
    return min(looks, key=lambda look: look.resident_bytes)


def _send_all(grpc_address: str, http_address: str, model: str, plan: Plan, report: Report) -> None:
    # One image in a request: then each has an answer of its own, whatever its neighbors are.
    options = Options(max_request_bytes=1, max_in_flight=8, max_image_bytes=1 << 30)
    settings = {"model": model, "timeout_s": TIMEOUT_S, "options": options}
    with Client(grpc_address, **settings) as grpc, Client(http_address, **settings) as http:
        files = list(attacks.files(fuzz=plan.fuzz, frames=plan.frames))
        _send(grpc, files[::2], report)
        _send(http, files[1::2], report)
        if plan.large_side:
            large = list(attacks.within_limits(plan.large_side).items())
            _send(grpc, large * 2, report)
        if plan.oversized_bytes:
            for client in (grpc, http):
                _send(client, [("oversized", attacks.oversized(plan.oversized_bytes))], report)


def _ordinary_traffic(grpc_address: str, http_address: str, model: str, report: Report) -> None:
    """Photos, many at a time: Triton keeps its last few requests (`--grpc-infer-allocation-pool-size`), of any size."""
    options = Options(max_request_bytes=1, max_in_flight=32)
    for address in (grpc_address, http_address):
        with Client(address, model=model, timeout_s=TIMEOUT_S, options=options) as client:
            report.answered += len(client.embed(list(attacks.photos()) * 16))


def _send(client: Client, files: list[tuple[str, bytes]], report: Report) -> None:
    try:
        for (name, _), result in zip(files, client.stream([data for _, data in files]), strict=True):
            if result.error is None:
                report.taken += 1
            elif isinstance(result.error, InvalidImage) and result.error.reason:
                report.refused[" ".join(re.sub(r"[0-9]+", "#", result.error.reason).split()[:5])] += 1
            else:
                report.unclean.append(f"{name}: {result.error!r}")
    except VitritonError as exc:
        report.unclean.append(f"{type(exc).__name__}: {exc}")


@contextlib.contextmanager
def _good_traffic(client: Client, expected: np.ndarray, report: Report) -> Iterator[None]:
    """Good images, one after the other, until the block ends."""
    over = threading.Event()

    def ask() -> None:
        for number in range(sys.maxsize):
            if over.is_set():
                return
            position = number % len(attacks.photos())
            try:
                vector = client.embed(attacks.photos()[position])
            except VitritonError as exc:
                report.wrong.append(f"{type(exc).__name__}: {exc}")
            else:
                _compare(vector, expected[position : position + 1], report)

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        try:
            yield
        finally:
            over.set()
            asking.result()


def _compare(vectors: np.ndarray, expected: np.ndarray, report: Report) -> None:
    # float32 sums differ by rounding with the batch's size
    if np.abs(vectors - expected).max() < 1e-4:
        report.answered += len(vectors)
    else:
        report.wrong.append(f"differs by {np.abs(vectors - expected).max()}")


_HTTP_HALVES = (
    b"",
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Le",
    b'POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"inputs": [',
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_GRPC_HALVES = (b"", _PREFACE[:10], _PREFACE + _SETTINGS, _PREFACE + _SETTINGS + b"\0\xff\xff\1\4\0\0\0\1half a header")
_GARBAGE = (
    b"\0" * 1000,
    b"\xff" * 1000,
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(500),  # TLS
    _PREFACE + b"\xff" * 1000,
    _PREFACE + _SETTINGS + b"\0\0\4\0\0\0\0\0\1" + bytes(4),
    b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /v2/models/" + b"m" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /v2/models/m/infer HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
    b'POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 20000\r\n\r\n{"a":' + b"[" * 20_000,
)


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition("//")[2].rpartition(":")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def _half_open(grpc_address: str, http_address: str) -> Iterator[None]:
    """Many connections that have begun a request and say no more until the block ends."""
    with contextlib.ExitStack() as stack:
        for address, halves in ((grpc_address, _GRPC_HALVES), (http_address, _HTTP_HALVES)):
            for number in range(_HALF_OPEN):
                connection = stack.enter_context(socket.create_connection(_place(address), 10.0))
                connection.sendall(halves[number % len(halves)])
        yield


def _garbage(grpc_address: str, http_address: str) -> None:
    """What is no request, to both ports; any answer will do, and none as well."""
    for address in (grpc_address, http_address):
        for data in _GARBAGE:
            with contextlib.suppress(OSError), socket.create_connection(_place(address), 10.0) as connection:
                connection.settimeout(0.2)
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass


def main() -> None:
    """Attacks, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="gRPC address")
    parser.add_argument("--http", required=True, help="HTTP address")
    parser.add_argument("--model", required=True)
    parser.add_argument("--pid", type=int, help="of tritonserver, if it is on this machine")
    parser.add_argument("--fuzz", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--large-side", type=int, default=attacks.LARGEST_WITHIN)
    parser.add_argument("--oversized-bytes", type=int, default=0)
    parser.add_argument("--passes", type=int, default=2)
    given = parser.parse_args()
    plan = Plan(given.fuzz, given.frames, given.large_side, given.oversized_bytes, given.passes)
    usage = (lambda: usage_of(given.pid)) if given.pid else None
    report = attack(given.url, given.http, given.model, plan, usage)
    for reason, count in report.refused.most_common():
        print(f"{count:6} refused: {reason} …")
    print(f"{report.taken:6} taken\n{report.answered:6} good images answered meanwhile")
    for line in [*report.unclean, *report.wrong]:
        print(f"wrong: {line}")
    for usage_then in report.usage:
        print(usage_then)
    sys.exit(1 if report.unclean or report.wrong or report.restarted else 0)


if __name__ == "__main__":
    main()
