"""A Ray of several nodes, a Triton and an S3 server for bulk embedding, in the environment of `make test-ray`."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# not in the environment of `make test-ray`; the folder of that name counts as a package, too
if importlib.util.find_spec("ray") is None or importlib.util.find_spec("ray.data") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds
    from client.conftest import write_model
    from PIL import Image
    from pyarrow import fs
    from vitriton._storage import Storage
    from vitriton_server import TritonServer

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
S3_PYTHON = Path(os.environ.get("VITRITON_S3_PYTHON", ROOT / ".venv-s3/bin/python"))
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
BAD = b"no image"


@pytest.fixture(scope="session")
def subprocesses() -> None:
    """Is asked for by what starts other processes; also where tests/conftest.py is not read."""


class RayCluster:
    """The process of cluster.py."""

    def __init__(self, nodes: int, environment: dict[str, str], log: Path) -> None:
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(HERE / "cluster.py"), str(nodes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
            )
        self._log = log
        try:
            self.address: str = self._answer()["address"]
        except BaseException:
            self.close()
            raise

    def tell(self, command: str) -> None:
        """Sends a command, and waits until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        self._answer()

    def workers(self) -> list[int]:
        """The processes of the actors that embed."""
        return [pid for pid, name in _descendants(self._process.pid) if "EmbedShards" in name]

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = next((line for line in self._process.stdout if line.startswith("{")), None)  # Ray prints, too
        assert line is not None, self._log.read_text()
        return json.loads(line)


def _descendants(top: int) -> Iterator[tuple[int, str]]:
    """The processes below one, with their names."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
    for pid in parents:
        above = pid
        while above in parents and above != top:
            above = parents[above]
        if above == top and pid != top:
            yield pid, names[pid]


@pytest.fixture(scope="session")
def s3(subprocesses) -> Iterator[dict[str, str]]:
    """An S3 server: the variables with which a process reaches it."""
    if not S3_PYTHON.exists():
        pytest.fail(f"{S3_PYTHON} is not there; `make test-ray` makes it")
    process = subprocess.Popen(
        [S3_PYTHON, "-W", "ignore", HERE / "s3_server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    endpoint = process.stdout.readline().strip()
    variables = {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    yield variables
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    process.kill()
    process.communicate()


@pytest.fixture(scope="session")
def ray_cluster(s3, tmp_path_factory) -> Iterator[RayCluster]:
    """A cluster of two nodes, whose processes reach the S3 server."""
    cluster = RayCluster(2, s3, tmp_path_factory.mktemp("ray") / "log")
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A repository with `tiny`, whose vectors are mean colors."""
    folder = tmp_path_factory.mktemp("repository")
    write_model(folder, "tiny_pooled", fingerprint="space-1")
    return folder


@pytest.fixture(scope="session")
def triton(subprocesses, repository) -> Iterator[TritonServer]:
    """A real Triton."""
    with TritonServer(repository) as server:
        yield server


def picture(number: int) -> bytes:
    """A small JPEG; no two numbers have the same."""
    values = np.random.default_rng(number).integers(0, 256, (16, 16 + number % 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG")
    return buffer.getvalue()


def write_pictures(folder: Path, count: int, bad: set[int] = frozenset()) -> Path:
    """A folder of pictures, of which some are none."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(BAD if number in bad else picture(number))
    return folder


def write_tar(target: Path | Any, members: list[tuple[str, bytes]], style: int = tarfile.PAX_FORMAT) -> Any:
    """A tar of members: their names, and their bytes. The target is a path, or a file that is open."""
    named = {"name": target} if isinstance(target, Path) else {"fileobj": target}
    with tarfile.open(**named, mode="w", format=style, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target


def make_bucket(name: str) -> fs.FileSystem:
    """A new bucket; returns the store."""
    store, _ = fs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")
    store.create_dir(name)
    return store


def command(*arguments: object) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "vitriton", "embed", "--engine", "ray", *map(str, arguments)]


def embed(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a job to its end."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env={**os.environ, **environment}, timeout=500
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def rows(folder: object) -> dict[Any, dict[str, Any]]:
    """The rows of an output, by their ids, each of which is there once."""
    table = read(folder)
    found = table.to_pylist()
    by_id = {row["id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def read(folder: object) -> pa.Table:
    """An output, as readers of folders find it."""
    place = Storage().place(str(folder))
    return ds.dataset(place.path, filesystem=place.files, format="parquet").to_table()


def vectors(by_id: dict[Any, dict[str, Any]]) -> dict[Any, Any]:
    """The vectors of rows, or the codes of their errors."""
    return {name: row["error_code"] or tuple(row["embedding"]) for name, row in by_id.items()}


def wait_until(happens: Callable[[], bool], timeout_s: float = 300.0) -> None:
    """Waits for something."""
    end_s = time.monotonic() + timeout_s
    while not happens():
        assert time.monotonic() < end_s
        time.sleep(0.2)


@pytest.fixture
def dice() -> random.Random:
    """Random numbers; the seed is told when a test fails."""
    seed = int(os.environ.get("VITRITON_SEED", random.randrange(10**6)))
    print(f"VITRITON_SEED={seed}")
    return random.Random(seed)
