"""What the tests of failures share: ways to a server, faults of a network, and what a process holds."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client.both import KINDS, make_client
from client.faulty_proxy import HEALTHY, Fault, FaultyProxy
from PIL import Image
from vitriton import ContractMismatch, DeadlineExceeded, InferenceFailed, Unavailable, VitritonError
from vitriton_server import TritonServer, WatchPolicy

PATIENCE_S = 120.0
RESTARTS = WatchPolicy(restart=True, backoff_s=0.0, max_restarts=1000, canary_interval_s=0)


@dataclass(frozen=True)
class Way:
    """A kind of client, and a protocol."""

    kind: str
    scheme: str

    def __str__(self) -> str:
        return f"{self.kind} {self.scheme}"

    def address(self, server: TritonServer) -> str:
        """`host:port` of a server's endpoint."""
        return server.grpc_address if self.scheme == "grpc" else server.http_address

    def connect(self, *addresses: str, model: str = "tiny", **arguments: Any) -> Any:
        """A client of the kind."""
        return make_client(self.kind)([f"{self.scheme}://{where}" for where in addresses], model=model, **arguments)


WAYS = [Way(kind, scheme) for kind in KINDS for scheme in ("grpc", "http")]


GRPC_WAYS = [way for way in WAYS if way.scheme == "grpc"]


def on_all_ways(work: Callable[[Way], Any], ways: Sequence[Way] = WAYS) -> list[Any]:
    """Does it for all at the same time."""
    with ThreadPoolExecutor(len(ways)) as pool:
        return list(pool.map(work, ways))


def quick_server(repository: Path, **arguments: Any) -> TritonServer:
    """One that does not wait for clients' idle connections when it stops."""
    return TritonServer(repository, exit_timeout_s=0.0, **arguments)


def kill(server: TritonServer) -> None:
    """As `kill -9`; one that has just ended by itself is ended."""
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGKILL)


def pictures(count: int) -> list[np.ndarray]:
    """Small ones, (1, W, 3) uint8, no two of one color and width."""
    return [np.full((1, 1 + i % 7, 3), (i % 256, i // 256, 9), np.uint8) for i in range(count)]


def encoded(picture: np.ndarray) -> bytes:
    """As PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Returns when it holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def longest_s(deadline_s: float) -> float:
    """A call with this deadline may take so long where other programs want the cores too.

    It only tells a call that ends from one that hangs: a fault lasts longer than this.
    """
    return deadline_s + 15.0


@contextmanager
def fails_by(deadline_s: float) -> Iterator[pytest.ExceptionInfo[VitritonError]]:
    """Expects an error of the client, at its deadline at the latest."""
    start = time.monotonic()
    with pytest.raises(VitritonError) as caught:
        yield caught
    assert time.monotonic() - start < longest_s(deadline_s)


# Faults of a network

RANDOM = np.random.default_rng(0)
LARGE = encoded(RANDOM.integers(0, 256, (300, 300, 3), np.uint8))  # 270 kB: sent in many pieces


def _http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Of HTTP/2: RFC 9113, section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _fields(*pairs: tuple[str, str]) -> bytes:
    """Header fields, as HPACK literals: RFC 7541, section 6.2.2."""
    return b"".join(b"".join((b"\0", *(bytes([len(text)]) + text.encode() for text in pair))) for pair in pairs)


_GREETING = _frame(4, 0, 0) + _frame(4, 1, 0)  # SETTINGS, and ACK of the client's
_HEADERS = _frame(1, 4, 1, b"\x88" + _fields(("content-type", "application/grpc")))  # \x88 is ":status: 200"
_OK = _frame(1, 5, 1, _fields(("grpc-status", "0")))
_PAGE = b"<html><body>It works!</body></html>"
_TENSOR = (
    b'{"model_name":"tiny_pooled","outputs":[{"name":"embedding","datatype":"FP32","shape":[1,4],'
    b'"parameters":{"binary_data_size":16}}]}'
)


def _message(data: bytes) -> bytes:
    return _frame(0, 0, 1, b"\0" + len(data).to_bytes(4, "big") + data)


_COMMON = {
    "reset": Fault(request_bytes=0, ending="reset"),
    "closed": Fault(request_bytes=0),
    "reset in the request": Fault(request_bytes=100_000, ending="reset"),
    "closed in the request": Fault(request_bytes=100_000),
    "stuck in the request": Fault(request_bytes=100_000, ending="silence"),
    "first byte": Fault(response_bytes=1),
    "cut short": Fault(response_bytes=40),
    "cut short by a reset": Fault(response_bytes=40, ending="reset"),
    "stuck in the response": Fault(response_bytes=40, ending="silence"),
    "black hole": Fault(request_bytes=0, ending="silence"),
    "late": Fault(delay_s=60.0),
    "noise": Fault(answer=RANDOM.bytes(5000)),
    "noise, then silence": Fault(answer=RANDOM.bytes(5000), ending="silence"),
}
_ANSWERS = {
    "http": {
        "a page": _http(_PAGE, "content-type: text/html", f"content-length: {len(_PAGE)}"),
        "half a header": b"HTTP/1.1 200 OK\r\ncontent-le",
        "longer than said": _http(_TENSOR, "content-length: 20", f"inference-header-content-length: {len(_TENSOR)}"),
        "shorter than said": _http(_TENSOR, "content-length: 5000"),
        "a negative length": _http(_TENSOR, "content-length: -5"),
        "a huge length": _http(_TENSOR, "content-length: 999999999999"),
        "half a tensor": _http(
            _TENSOR + bytes(8),
            f"content-length: {len(_TENSOR) + 8}",
            f"inference-header-content-length: {len(_TENSOR)}",
        ),
        "broken chunks": _http(b"zz\r\n" + RANDOM.bytes(100), "transfer-encoding: chunked"),
        "a bad gateway": _http(b"bad", "content-length: 3", status="502 Bad Gateway"),
        "HTTP/2": _GREETING,
    },
    "grpc": {
        "random frames": _GREETING
        + b"".join(
            _frame(kind, flags, stream, RANDOM.bytes(30))
            for kind, flags, stream in RANDOM.integers(0, (10, 256, 5), (20, 3)).tolist()
        ),
        "a random message": _GREETING + _HEADERS + _message(RANDOM.bytes(200)) + _OK,
        "an empty message": _GREETING + _HEADERS + _message(b"") + _OK,
        "no message": _GREETING + _HEADERS + _OK,
        "a huge length": _GREETING + _HEADERS + _frame(0, 0, 1, b"\0\x7f\xff\xff\xff" + bytes(50)),
        "no status": _GREETING + _HEADERS + _frame(0, 1, 1),
        "a strange status": _GREETING + _frame(1, 5, 1, b"\x88" + _fields(("grpc-status", "x"))),
        "a reset stream": _GREETING + _frame(3, 0, 1, (2).to_bytes(4, "big")),
        "goodbye": _GREETING + _frame(7, 0, 0, bytes(8)),  # GOAWAY
        "HTTP/1": _http(_PAGE, f"content-length: {len(_PAGE)}"),
    },
}
FAULTS = {
    scheme: _COMMON
    | {name: Fault(answer=answer) for name, answer in answers.items()}
    | {f"{name}, then silence": Fault(answer=answer, ending="silence") for name, answer in answers.items()}
    for scheme, answers in _ANSWERS.items()
}
_DEADLINE_S = 0.1


def through_faults(server: TritonServer, rounds: int, ways: Sequence[Way] = WAYS) -> int:
    """Clients call through all faults, on connections that were good and on new ones, and work in between.

    Returns:
        The number of calls that failed.
    """

    def run(way: Way) -> int:
        calls = 0
        with FaultyProxy(way.address(server)) as proxy, way.connect(proxy.address) as client:
            for number, fault in enumerate(list(FAULTS[way.scheme].values()) * rounds):
                if number % 5 == 0:
                    proxy.switch(HEALTHY, drop=True)
                    assert client.embed([LARGE], timeout_s=PATIENCE_S).shape == (1, 4), fault
                proxy.switch(fault, drop=number % 2 == 0)
                with fails_by(_DEADLINE_S) as caught:
                    client.embed([LARGE] * 2, timeout_s=_DEADLINE_S)
                check_error(caught.value, f"{way.scheme}://{proxy.address}")
                calls += 1
        return calls

    return sum(on_all_ways(run, ways))


def check_error(error: VitritonError, address: str) -> None:
    """It says what a program needs to know."""
    assert isinstance(error, (Unavailable, DeadlineExceeded, InferenceFailed, ContractMismatch)), repr(error)
    assert (error.address, error.model) == (address, "tiny_pooled"), repr(error)
    # On a busy machine the time can be over before there was an attempt.
    assert error.attempts >= 1 or isinstance(error, DeadlineExceeded), repr(error)
    if error.status is not None:  # else there was no answer of which it could be
        assert error.__cause__ is not None, repr(error)


# What a process holds


@dataclass(frozen=True)
class Held:
    """What a process has open.

    Attributes:
        threads: of Python.
        files: descriptors.
    """

    threads: int
    files: int

    def __le__(self, other: Held) -> bool:
        return self.threads <= other.threads and self.files <= other.files


def held() -> Held:
    """Of this process, when what is closed in the background has had a moment."""
    least = _held()
    for _ in range(20):
        time.sleep(0.05)
        now = _held()
        least = Held(min(least.threads, now.threads), min(least.files, now.files))
    return least


def _held() -> Held:
    return Held(threading.active_count(), len(list(Path("/proc/self/fd").iterdir())))


def resident_bytes() -> int:
    """Of this process, without what is free and only kept by the allocator for the next thread."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_NOOP = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.zeros((len(images), 4), np.float32))])
"""
_NOOP_CONFIG = """
backend: "python"
max_batch_size: 64
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "embedding" data_type: TYPE_FP32 dims: [ 4 ] }
instance_group { count: 1 kind: KIND_CPU }
"""
_STREAM = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[4])
from client.both import make_client


def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024


with make_client(sys.argv[1])(sys.argv[2], model="noop") as client:
    for _ in client.stream([b"x"] * 100):
        pass
    before = peak()
    for index, result in enumerate(client.stream(b"%d" % number for number in range(int(sys.argv[3])))):
        assert result.index == index and result.error is None
    assert index + 1 == int(sys.argv[3])
    print(peak() - before)
"""


def write_noop(repository: Path) -> None:
    """A model that does nothing with what it gets."""
    (repository / "noop_pooled" / "1").mkdir(parents=True)
    (repository / "noop_pooled" / "1" / "model.py").write_text(_NOOP)
    (repository / "noop_pooled" / "config.pbtxt").write_text(_NOOP_CONFIG)


def peak_growth_bytes(server: TritonServer, way: Way, count: int) -> int:
    """By how much the peak of a process grows while it streams `count` tiny inputs."""
    address = f"{way.scheme}://{way.address(server)}"
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", _STREAM, way.kind, address, str(count), tests]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200).stdout)
