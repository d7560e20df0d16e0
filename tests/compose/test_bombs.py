"""What is small on its way and large in Triton: the gateway refuses it, and nobody else notices anything."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import ssl
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from compose.conftest import TINY
from compose.project import Project
from compose.test_attacks import triton
from compose.test_gateway import PHOTO, infer_message
from server.processes import wait_until
from vitriton import TLS, Client, Options, VitritonError

MIB = 2**20
INFER = f"/v2/models/{TINY}_pooled/infer"
INDEX = "/v2/repository/index"
METHODS = ("ModelInfer", "ModelStreamInfer")
SERVICE = "/inference.GRPCInferenceService"
GROWTH_BYTES = 200 * MIB
GAP_S = 20.0  # of others' answers; one that hangs fails after 30 s

Headers = list[tuple[str, str]]
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")

# What a request says of its body, so that Triton would inflate it.
ENCODINGS = [
    [("Content-Encoding", "gzip")],
    [("Content-Encoding", "deflate")],
    [("Content-Encoding", "GZIP")],
    [("Content-Encoding", " gzip ")],
    [("Content-Encoding", "x-gzip")],
    [("Content-Encoding", "br")],
    [("Content-Encoding", "gzip, identity")],
    [("Content-Encoding", "identity, gzip")],
    [("Content-Encoding", "identity,identity")],
    [("Content-Encoding", "gzip"), ("Content-Encoding", "identity")],
    [("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")],
    [("Content-Encoding", "gzip"), ("Inference-Header-Content-Length", "100")],
    [("grpc-encoding", "gzip")],
]
# What says nothing of the kind, or says it in a way that nginx may read as nothing: it is passed on as it is.
DISGUISES = [
    [],
    [("Content-Encoding", "identity")],
    [("Content-Encoding", "Identity")],
    [("Content-Encoding", "")],
    [("Content_Encoding", "gzip")],
    [("TE", "gzip")],
    [("Accept-Encoding", "gzip")],
    [("Inference-Header-Content-Length", "100")],
]
ENCODING_HEADERS = ["grpc-encoding", "grpc-internal-encoding-request", "content-encoding"]
GRPC_ENCODINGS = ["gzip", "deflate", "GZIP", "identity, gzip", "gzip,identity", "snappy", "x"]


def nested(levels: int, where: str) -> bytes:
    """A request in whose data, or parameters, arrays or objects are in each other."""
    if where == "data":
        inner = b"[" * levels + b"1" + b"]" * levels
        return b'{"inputs":[{"name":"image","shape":[1,1],"datatype":"BYTES","data":' + inner + b"}]}"
    return b'{"parameters":{"a":' + b'{"a":' * levels + b"1" + b"}" * levels + b'},"inputs":[]}'


def zeros(size: int) -> bytes:
    """So many zeros, as gzip."""
    maker = zlib.compressobj(9, wbits=31)
    parts = [maker.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, maker.flush()])


def frame(message: bytes, *, compressed: bool = True) -> bytes:
    """A message as gRPC puts it into a body."""
    return struct.pack(">BI", compressed, len(message)) + message


@dataclass(frozen=True)
class Way:
    """The way to the gateway: its address, whom it is known by, and the token."""

    address: str
    ca: Path
    token: str

    def post(self, headers: Headers, body: bytes, path: str = INFER) -> tuple[int, str]:
        """Status and text of the answer to a POST with exactly these headers beside host, token and length."""
        host, port = self.address.split(":")
        connection = HTTPSConnection(
            host, int(port), context=ssl.create_default_context(cafile=str(self.ca)), timeout=120
        )
        chunked = ("Transfer-Encoding", "chunked") in headers
        own = [("Authorization", f"Bearer {self.token}")]
        if not chunked:
            own.append(("Content-Length", str(len(body))))
        connection.putrequest("POST", path, skip_accept_encoding=True)
        for name, value in [*own, *headers]:
            connection.putheader(name, value)
        with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):  # refused before all of it was sent
            connection.endheaders([body] if chunked else body, encode_chunked=chunked)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def call(self, message: bytes, *, stream: bool = False, **options: Any) -> None:
        """One call over gRPC, or one stream of one message, as the client library makes it."""
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        metadata = [("authorization", f"Bearer {self.token}")]
        with grpc.secure_channel(self.address, credentials, [("grpc.max_send_message_length", -1)]) as channel:
            if stream:
                call = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
                list(call(iter([message]), metadata=metadata, timeout=120, **options))
            else:
                call = channel.unary_unary(f"{SERVICE}/ModelInfer")
                call(message, metadata=metadata, timeout=120, **options)

    def send_frame(self, headers: Headers, body: bytes, method: str = "ModelInfer") -> str:
        """The head of the answer to a body and headers that no gRPC library would send."""
        given = [("authorization", f"Bearer {self.token}"), ("content-type", "application/grpc"), ("te", "trailers")]
        command = ["curl", "--silent", "--http2", "--cacert", str(self.ca), "--data-binary", "@-", "--dump-header", "-"]
        for name, value in [*given, *headers]:
            command += ["--header", f"{name}: {value}"]
        command += ["--output", "/dev/null", "--max-time", "120", f"https://{self.address}{SERVICE}/{method}"]
        return subprocess.run(command, input=body, capture_output=True).stdout.decode()  # often cut off


@pytest.fixture(scope="module")
def way(front: Project, gateway_files: Path) -> Way:
    """The way to the gateway before a small model."""
    return Way(front.address("gateway"), gateway_files / "ca.pem", (gateway_files / "token").read_text())


@dataclass
class Watch:
    """What others noticed.

    Attributes:
        answers: when somebody else's photo was answered, in seconds.
        failures: what they heard instead.
        resident_bytes: of tritonserver, at the beginning and at the end.
    """

    answers: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    resident_bytes: tuple[int, int] = (0, 0)

    def gap_s(self) -> float:
        """The longest time without an answer."""
        return max(later - earlier for earlier, later in pairwise(self.answers))


def resident_bytes(pid: int) -> int:
    """What a process has in memory, by its status."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024


@contextmanager
def others(project: Project, way: Way) -> Iterator[Watch]:
    """Another client asks for embeddings through the gateway all the while; tritonserver is the same at the end."""
    watch, stop = Watch(), threading.Event()
    pid = triton(project)
    started = project.inspect("triton")["State"]["StartedAt"]

    def ask() -> None:
        options = Options(max_attempts=1)
        with Client(
            f"grpcs://{way.address}", model=TINY, token=way.token, tls=TLS(ca_file=way.ca), options=options
        ) as client:
            while not stop.is_set():
                try:
                    client.embed([PHOTO], timeout_s=30.0)
                    watch.answers.append(time.monotonic())
                except VitritonError as error:
                    watch.failures.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_until(lambda: len(watch.answers) > 20, 60.0, "somebody is answered")
        del watch.answers[:-1]
        before = resident_bytes(pid)
        yield watch
        after = len(watch.answers)
        wait_until(lambda: len(watch.answers) > after, 60.0, "they are still answered")
    finally:
        stop.set()
        thread.join(60)
    watch.resident_bytes = before, resident_bytes(pid)
    assert project.inspect("triton")["State"]["StartedAt"] == started


def unharmed(watch: Watch) -> None:
    """Nobody else has noticed anything, and Triton holds nothing of it."""
    before, after = watch.resident_bytes
    assert watch.failures == []
    assert watch.gap_s() < GAP_S
    assert after - before < GROWTH_BYTES, f"{before} to {after}"


@pytest.mark.parametrize("headers", ENCODINGS, ids=str)
def test_a_compressed_body_is_refused(way, headers):
    """Whatever it is compressed with, and however that is written: 415, with a text for the client."""
    status, text = way.post(headers, gzip.compress(nested(10, "data")))
    assert (status, "takes no compressed requests" in json.loads(text)["error"]) == (415, True)


@pytest.mark.parametrize("headers", DISGUISES, ids=str)
def test_nothing_is_inflated(way, headers):
    """What gets past the refusal is for Triton a body like any other, and no JSON; its answer is not compressed."""
    status, text = way.post(headers, zeros(16 * MIB))
    assert status in (400, 500), text
    assert "failed to parse the request JSON" in json.loads(text)["error"]


def test_a_second_encoding_is_not_seen(way):
    """A header that is there twice is refused, or not passed on, as the release of nginx reads it."""
    status, _ = way.post([("Content-Encoding", "identity"), ("Content-Encoding", "gzip")], zeros(16 * MIB))
    assert status in (400, 415, 500)


def test_a_coding_of_the_transfer(way):
    """`Transfer-Encoding: gzip, chunked` is refused too, in JSON."""
    status, text = way.post([("Transfer-Encoding", "gzip, chunked")], b"")
    assert (status, "error" in json.loads(text)) == (501, True)


@pytest.mark.parametrize("stream", [False, True], ids=["call", "stream"])
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_message_is_refused(way, compression, stream):
    """UNIMPLEMENTED, as gRPC wants it of a server that does not know an encoding; the same message passes without."""
    message = infer_message(PHOTO).SerializeToString()
    with pytest.raises(grpc.RpcError, match="takes no compressed messages") as caught:
        way.call(message, stream=stream, compression=compression)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    way.call(message, stream=stream)


@curl
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "headers",
    [[(name, value)] for name in ENCODING_HEADERS for value in GRPC_ENCODINGS]
    + [[("grpc-encoding", "gzip"), ("grpc-encoding", "identity")]],
    ids=str,
)
def test_a_message_that_says_so_otherwise(way, headers, method):
    """Upper case, lists, twice, or in the header that gRPC keeps to itself."""
    head = way.send_frame(headers, frame(zeros(MIB)), method)
    assert "grpc-status: 12" in head
    assert "grpc-accept-encoding: identity" in head


@curl
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "headers",
    [[], [("grpc-encoding", "identity")], [("grpc-encoding", "identity"), ("grpc-encoding", "gzip")]],
    ids=str,
)
def test_no_message_is_inflated(way, headers, method):
    """A message that calls itself compressed and does not say how, or where nginx does not look, is an error."""
    head = way.send_frame(headers, frame(zeros(16 * MIB)), method)
    # a stream of which no message can be read has ended without any
    assert re.search("grpc-status: (0|12|13)" if method == "ModelStreamInfer" else "grpc-status: (12|13)", head), head


@pytest.mark.parametrize("where", ["data", "parameters"])
@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Transfer-Encoding", "chunked")],
        [("Inference-Header-Content-Length", "60000")],
        [("Inference-Header-Content-Length", "+60000")],
        [("Inference-Header-Content-Length", "060000")],
    ],
    ids=str,
)
def test_nested_json_is_refused(front, way, headers, path, where):
    """JSON has a limit of its own, far below what nesting needs to end Triton; with a length, without, and with two."""
    with others(front, way) as watch:
        for levels in (30_000, 1_000_000):
            status, text = way.post(headers, nested(levels, where), path)
            assert (status, "of JSON" in json.loads(text)["error"]) == (413, True)
    unharmed(watch)


@curl
@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_nested_json_of_no_known_length(way, protocol):
    """What does not say how long it is, is counted as it comes, whatever it says of its JSON; in HTTP/2 too."""
    command = ["curl", "--silent", protocol, "--cacert", str(way.ca), "--upload-file", "-", "--request", "POST"]
    for header in (f"Authorization: Bearer {way.token}", "Inference-Header-Content-Length: 100", "Expect:"):
        command += ["--header", header]
    command += ["--max-time", "60", f"https://{way.address}{INFER}"]
    answer = subprocess.run(command, input=nested(1_000_000, "data"), capture_output=True).stdout
    assert "of JSON" in json.loads(answer)["error"]


@pytest.mark.parametrize("where", ["data", "parameters"])
def test_json_within_its_limit(front, way, where):
    """As deep as that limit allows, in data or parameters, Triton reads it; and small JSON needs no length."""
    levels = 32_000 // (2 if where == "data" else 6) - 50
    _, text = way.post([], nested(levels, where))
    assert "gateway" not in json.loads(text)["error"]
    assert way.post([("Transfer-Encoding", "chunked")], b"{}", INDEX)[0] == 200
    assert front.health("triton") == "healthy"


def throw(way: Way, bomb: bytes, json_bomb: bytes) -> None:
    """All at once: six compressed bodies of a GiB, six such messages, and deeply nested JSON, plain and compressed."""
    gzipped = [("Content-Encoding", "gzip")]
    with ThreadPoolExecutor(14) as pool:
        posts = [pool.submit(way.post, gzipped, bomb) for _ in range(6)]
        frames = [pool.submit(way.send_frame, [("grpc-encoding", "gzip")], frame(bomb)) for _ in range(4)]
        unsaid = [pool.submit(way.send_frame, [], frame(bomb), method) for method in METHODS]
        nests = [pool.submit(way.post, [], json_bomb), pool.submit(way.post, gzipped, gzip.compress(json_bomb))]
    assert [post.result()[0] for post in posts] == [415] * 6
    assert all("grpc-status: 12" in head.result() for head in frames)
    assert all("grpc-status: " in head.result() for head in unsaid)
    assert [nest.result()[0] for nest in nests] == [413, 415]


@curl
def test_fifty_times_all_at_once(front, way):
    """Again and again: tritonserver takes no more memory, does not restart, and others are answered all the while."""
    bomb, json_bomb = zeros(1024 * MIB), nested(1_000_000, "data")
    with others(front, way) as watch:
        for _ in range(50):
            throw(way, bomb, json_bomb)
    unharmed(watch)
