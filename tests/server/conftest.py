"""One running server for each test module that asks for it, and repositories for those that start their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from server.tiny_models import copy_repository, make_full_repository, make_python_repository
from vitriton_server import TritonServer

_WAIT_FOR_TURN = """
    def initialize(self, args):
        import pathlib, time
        turn = pathlib.Path({turn!r})
        while not turn.exists():
            time.sleep(0.01)
        turn.unlink()
"""


@pytest.fixture(scope="session")
def full_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_full_repository(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="session")
def python_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_python_repository(tmp_path_factory.mktemp("python"))


@pytest.fixture
def waiting_repository(python_repository: Path, tmp_path: Path) -> Path:
    """The same, whose loading waits for its turn: for a file `turn` beside the repository, which it removes."""
    repository = copy_repository(python_repository, tmp_path / "waits")
    with (repository / "tiny_preprocess" / "1" / "model.py").open("a") as model:
        model.write(_WAIT_FOR_TURN.format(turn=str(tmp_path / "turn")))
    return repository


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
