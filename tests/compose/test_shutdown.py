"""SIGTERM under load: what was accepted is answered, and a client's stream goes elsewhere or waits."""

from __future__ import annotations

import contextlib
import json
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPSConnection

import numpy as np
import pytest
import tritonclient.grpc as triton
from compose.conftest import TINY
from compose.project import Project
from compose.test_faults import PHOTOS, Stream, starts

REQUESTS = 16
ANSWERS_S = 120.0
STOPPING = 0


def ask_grpc(project: Project, sent: threading.Barrier) -> int:
    """All photos in one request; how many embeddings came back, or STOPPING."""
    tensor = triton.InferInput("image", [len(PHOTOS), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(PHOTOS, dtype=np.object_).reshape(-1, 1))
    answers: list[Future[int]] = [Future()]

    def take(result: triton.InferResult | None, error: Exception | None) -> None:
        if "Server is stopping" in str(error):
            answers[0].set_result(STOPPING)
        elif error is not None:
            answers[0].set_exception(error)
        elif result is not None:
            answers[0].set_result(len(result.as_numpy("embedding")))

    with triton.InferenceServerClient(project.address("grpc")) as client:
        client.async_infer(f"{TINY}_pooled", [tensor], take)
        sent.wait()
        return answers[0].result(ANSWERS_S)


def ask_http(project: Project, sent: threading.Barrier) -> int:
    """The same over HTTP."""
    data = b"".join(struct.pack("<I", len(photo)) + photo for photo in PHOTOS)
    image = {"name": "image", "shape": [len(PHOTOS), 1], "datatype": "BYTES"}
    head = json.dumps({"inputs": [image | {"parameters": {"binary_data_size": len(data)}}]}).encode()
    with contextlib.closing(HTTPConnection(project.address("http"), timeout=ANSWERS_S)) as connection:
        length = {"Inference-Header-Content-Length": str(len(head))}
        connection.request("POST", f"/v2/models/{TINY}_pooled/infer", body=head + data, headers=length)
        sent.wait()
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return int(json.loads(text)["outputs"][0]["shape"][0])


@pytest.fixture
def running(small) -> Iterator[Project]:
    """The shared project, which is up again afterwards."""
    yield small
    small.up()


@pytest.mark.parametrize("ask", [ask_grpc, ask_http])
def test_every_accepted_request_is_answered(running, ask):
    """SIGTERM while requests wait for their turn: each is answered, and the container ends with 0.

    Over HTTP with its embeddings. Over gRPC a Triton before 2.59 refuses those that have a step still before them, in
    so many words, which sends a client to the next server.
    """
    sent = threading.Barrier(REQUESTS + 1)
    with ThreadPoolExecutor(REQUESTS) as threads:
        asked = [threads.submit(ask, running, sent) for _ in range(REQUESTS)]
        sent.wait(ANSWERS_S)
        done, waiting = wait(asked, ANSWERS_S, FIRST_COMPLETED)  # so that the others have come in as well
        assert done
        assert waiting
        running.compose("stop", "triton")
        answers = [future.result() for future in asked]
    assert set(answers) <= ({len(PHOTOS)} if ask is ask_http else {len(PHOTOS), STOPPING})
    assert running.inspect("triton")["State"]["ExitCode"] == 0


def test_a_stop_with_gateway_and_prometheus_attached(front, gateway_files):
    """Connections that are open and idle hold nothing up: the gateway's pool, Prometheus's, and a client's own."""
    front.up("triton", "gateway", "prometheus")
    verify = ssl.create_default_context(cafile=gateway_files / "ca.pem")
    token = {"Authorization": f"Bearer {(gateway_files / 'token').read_text()}"}
    with ExitStack() as open_until_the_end:
        through = HTTPSConnection(front.address("gateway"), timeout=ANSWERS_S, context=verify)
        direct = [HTTPConnection(front.address(port), timeout=ANSWERS_S) for port in ("http", "metrics")]
        for connection, path in zip((through, *direct), ("/v2", "/v2", "/metrics"), strict=True):
            open_until_the_end.enter_context(contextlib.closing(connection))
            connection.request("GET", path, headers=token)
            assert connection.getresponse().read()
        begin = time.monotonic()
        front.compose("stop", "triton")
        seconds = time.monotonic() - begin
    try:
        print(f"docker compose stop triton: {seconds:.1f} s")
        assert front.inspect("triton")["State"]["ExitCode"] == 0
        assert "Exit timeout expired" not in front.logs("triton")
        assert "cannot be closed from here" not in front.logs("triton")
        assert seconds < 28.0  # it was 31, the whole exit timeout
    finally:
        front.up("triton", "gateway")


def test_a_restart_under_a_stream(small):
    """The stream waits for the server to come back."""
    with Stream(small.address("grpc")) as stream:
        before = starts(small)
        small.compose("restart", "triton")
        assert starts(small) != before
        stream.goes_on()
    stream.check()


@pytest.mark.long
def test_a_second_replica(running, make_project):
    """With another server the stream does not wait at all: it goes on while the first is down."""
    other = make_project("replica", MODEL=f"/checkpoints/{TINY}", TRITON_MEMORY="1g", TRITON_SHM="128m")
    other.up()
    with Stream(running.address("grpc"), other.address("grpc")) as stream:
        running.compose("stop", "triton")
        stream.goes_on()
        running.up()
        other.compose("stop", "triton")
        stream.goes_on()
    stream.check()
