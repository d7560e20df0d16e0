"""One running server for each test module that asks for it, and repositories for those that start their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from server.tiny_models import make_full_repository, make_python_repository
from vitriton_server import TritonServer


@pytest.fixture(scope="session")
def full_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_full_repository(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def python_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_python_repository(tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="module")
def server(subprocesses, full_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(full_repository) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[triton.InferenceServerClient]:
    connection = triton.InferenceServerClient(server.grpc_address)
    yield connection
    connection.close()


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of the servers that the test starts; empty when they leave nothing."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture
def own_environment() -> dict[str, str]:
    """The environment for a launcher in a process of its own."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}
