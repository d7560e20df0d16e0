"""An endpoint whose Triton dies, comes back, or changes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from api.endpoint import running, uri
from client.chaos import RESTARTS, encoded, kill, pictures, quick_server, wait_for
from client.conftest import expected, write_model

pytestmark = pytest.mark.usefixtures("subprocesses")

TIMEOUT_S = 8
CALLERS = 6
KILLS = 3


@pytest.fixture
def triton(subprocesses, tmp_path):
    """A Triton with `tiny`, which is started again on its ports when it dies."""
    write_model(tmp_path / "repository", "tiny_pooled", fingerprint="space-1")
    with quick_server(tmp_path / "repository", watch=RESTARTS) as server:
        yield server


def test_triton_dies_under_load(triton):
    """Each request has its own vectors, or a status that says when to try again, in time; then all is as before."""
    shown = pictures(60)
    uris, rows = [uri(encoded(picture)) for picture in shown], expected(shown)
    found: list[tuple[int, float]] = []
    stopped = threading.Event()

    def call(caller: int) -> None:
        number = caller
        while not stopped.is_set():
            places = [(number + step) % len(uris) for step in range(4)]
            start_s = time.monotonic()
            answer = endpoint.call("/v1/embeddings", {"model": "tiny", "input": [uris[place] for place in places]})
            found.append((answer.status, time.monotonic() - start_s))
            if answer.status == 200:
                vectors = [row["embedding"] for row in answer.document["data"]]
                assert (np.array(vectors, np.float32) == rows[places]).all()
            else:
                assert answer.status in (429, 503, 504, 502), answer
                assert (answer.status in (429, 503)) == ("retry-after" in answer.headers)
                assert answer.error["message"]
            number += CALLERS

    def good() -> int:
        return sum(status == 200 for status, _ in list(found))

    with running(triton.grpc_address, "--timeout", TIMEOUT_S) as endpoint, ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, caller) for caller in range(CALLERS)]
        try:
            wait_for(lambda: good() > CALLERS, "requests are answered")
            for _ in range(KILLS):
                dead = triton.pid
                kill(triton)
                wait_for(lambda before=dead: triton.pid != before, "Triton is started again")
                answered = good()
                wait_for(lambda before=answered: good() > before + 2 * CALLERS, "requests are answered again")
        finally:
            stopped.set()
        for each in calls:
            each.result(60)
        assert endpoint.call("/v1/embeddings", {"model": "tiny", "input": uris[0]}).status == 200
    assert max(taken_s for _, taken_s in found) < TIMEOUT_S + 20


def test_an_endpoint_that_starts_first(tmp_path):
    """It is live, says 503, and is ready once Triton is."""
    write_model(tmp_path / "repository", "tiny_pooled", fingerprint="space-1")
    with quick_server(tmp_path / "repository") as server:
        address = server.grpc_address
    server = quick_server(tmp_path / "repository", grpc_port=int(address.rpartition(":")[2]))
    with running(address, "--model", "tiny", waits=False) as endpoint:
        assert endpoint.call("/health/live").status == 200
        answer = endpoint.call("/health/ready")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        answer = endpoint.call("/v1/embeddings", {"model": "tiny", "input": uri(b"")})
        assert (answer.status, answer.error["code"]) == (503, "model_not_ready")
        with server:
            wait_for(lambda: endpoint.call("/health/ready").status == 200, "the endpoint is ready")
            picture = pictures(1)
            answer = endpoint.call("/v1/embeddings", {"model": "tiny", "input": uri(encoded(picture[0]))})
            assert answer.document["data"][0]["embedding"] == expected(picture)[0].tolist()
