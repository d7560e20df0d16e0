"""The endpoint in the compose files: built, healthy, behind the gateway, and stopped without an open request."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from compose.conftest import TEXTS
from compose.project import Project
from vitriton import Client

SENTENCES = ["a man rides a bicycle", "the quick brown fox jumps over the lazy dog", "the"]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def project(text_front) -> Project:
    """The model for texts, with the endpoint beside the gateway."""
    text_front.compose("build", "api")
    text_front.up("api", "gateway")
    return text_front


def ask(address: str, **options: Any) -> httpx.Response:
    """The answer to the sentences."""
    body = {"model": TEXTS, "input": SENTENCES}
    return httpx.post(f"{address}/v1/embeddings", json=body, timeout=60, **options)


def gateway(project: Project, files: Path) -> tuple[str, dict[str, Any]]:
    """The gateway's address, and what a request to it needs."""
    context = ssl.create_default_context(cafile=files / "ca.pem")
    headers = {"authorization": f"Bearer {(files / 'token').read_text()}"}
    return f"https://{project.address('gateway')}", {"verify": context, "headers": headers}


def wait_for(status: int, url: str, **options: Any) -> None:
    """Waits until a path answers with a status."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := httpx.get(url, timeout=60, **options).status_code) != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_its_vectors_are_those_of_the_native_client(project):
    """To the last bit, on the port of loopback."""
    answer = ask(f"http://{project.address('api')}")
    assert answer.status_code == 200, answer.text
    with Client(project.address("grpc"), model=TEXTS) as client:
        expected = client.embed_texts(SENTENCES)
    rows = [entry["embedding"] for entry in answer.json()["data"]]
    assert np.array(rows, np.float32).tobytes() == expected.tobytes()


def test_the_gateway_passes_it_with_a_token(project, gateway_files):
    """TLS and the gateway's tokens are before the endpoint, which has no keys of its own here."""
    address, options = gateway(project, gateway_files)
    # the gateway is older than the endpoint here, and looks for its address every 2 s
    wait_for(200, f"{address}/v1/models", **options)
    answer = ask(address, **options)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == len(SENTENCES)
    for headers in ({}, {"authorization": "Bearer another"}):
        assert ask(address, **{**options, "headers": headers}).status_code == 401


def test_it_follows_triton(project):
    """Without Triton the endpoint lives and is not ready; it is ready again once Triton is."""
    health = f"http://{project.address('api')}/health"
    project.compose("stop", "triton")
    wait_for(503, f"{health}/ready")
    assert httpx.get(f"{health}/live", timeout=60).status_code == 200
    assert ask(f"http://{project.address('api')}").status_code == 503
    project.up("triton")
    wait_for(200, f"{health}/ready")
    assert ask(f"http://{project.address('api')}").status_code == 200


def test_a_stop_ends_it_at_once(project, gateway_files):
    """SIGTERM reaches the program: it ends by itself, with 0. The gateway says what it misses."""
    project.compose("stop", "api")
    assert project.inspect("api")["State"]["ExitCode"] == 0
    address, options = gateway(project, gateway_files)
    answer = ask(address, **options)
    assert answer.status_code in (503, 504)  # a container that has stopped may refuse connections, or be silent
    assert "the endpoint" in answer.json()["error"]
    project.up("api")
