"""What is told when the kernel ends something for lack of memory."""

from __future__ import annotations

import gzip
import http.client
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.launcher import READY, Launcher
from server.processes import wait_until
from server.test_cores import write
from server.tiny_models import write_config
from vitriton_server._process.memory import MemoryWatch, kills, limit_bytes, memory_warning, prefer_for_oom_kill

PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
V2 = {
    "proc/self/mountinfo": "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "proc/self/cgroup": "0::/a/b\n",
    "sys/fs/cgroup/a/b/memory.max": "max\n",
    "sys/fs/cgroup/a/b/memory.events": "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n",
    "sys/fs/cgroup/a/memory.max": "125829120\n",
    "sys/fs/cgroup/a/memory.events": "oom_kill 7\n",
}
V1 = {
    "proc/self/mountinfo": "34 32 0:29 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
    "proc/self/cgroup": "4:memory:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "125829120\n",
    "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}
UNLIMITED_V1 = {**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}

HUNGRY = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.kept = np.ones({at_start} << 20, np.uint8)

    def execute(self, requests):
        self.kept = np.ones({at_request} << 20, np.uint8)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("answer", np.zeros((1, 1), np.float32))]) for _ in requests]
"""


@pytest.mark.parametrize(
    ("files", "limit", "count"),
    [(V2, 120 << 20, 2), (V1, 120 << 20, 2), (UNLIMITED_V1, None, 2), ({}, None, None)],
    ids=["v2", "v1", "v1 without a limit", "nothing"],
)
def test_what_the_kernel_tells(files: dict[str, str], limit: int | None, count: int | None, tmp_path: Path) -> None:
    """The tightest limit above the process, and the count of its own cgroup."""
    root = write(tmp_path, files)
    assert (limit_bytes(root), kills(root)) == (limit, count)


@pytest.mark.parametrize("status", [None, 1, 137])
def test_a_kill_is_told_with_its_limit(status: int | None, tmp_path: Path) -> None:
    """Once, whatever has ended; one from before the start is not."""
    memory = MemoryWatch(write(tmp_path, V2))
    assert memory.verdict(status) is None
    write(tmp_path, {"sys/fs/cgroup/a/b/memory.events": "oom_kill 3\n"})
    assert "for lack of memory: the limit is 120 MiB. Raise the limit (TRITON_MEMORY" in str(memory.verdict(status))
    assert memory.verdict(status) is None


def test_the_machine_itself_may_have_no_more(tmp_path: Path) -> None:
    """Without a limit the machine is named."""
    memory = MemoryWatch(write(tmp_path, UNLIMITED_V1))
    write(tmp_path, {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill 3\n"})
    assert "the machine has no more" in str(memory.verdict(137))


def test_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    """A SIGKILL that nobody explains was probably the kernel's; other ends have nothing to do with it."""
    memory = MemoryWatch(tmp_path)
    assert "probably by the kernel for lack of memory" in str(memory.verdict(137))
    assert memory.verdict(134) is None
    assert memory.verdict(None) is None


def test_a_limit_that_cannot_do() -> None:
    """It is told before the start, as the launcher may be the first that is killed."""
    assert "the memory limit is 120 MiB, and a server with one small model takes about 256 MiB" in str(
        memory_warning(120 << 20)
    )
    assert memory_warning(8 << 30) is None
    assert memory_warning(None) is None


@pytest.mark.usefixtures("subprocesses")
def test_triton_goes_before_the_launcher() -> None:
    """Under a limit its process is offered to the kernel first; without one nothing is changed."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        score = Path(f"/proc/{child}/oom_score_adj")
        before = int(score.read_text())
        prefer_for_oom_kill(child, None)
        assert int(score.read_text()) == before
        prefer_for_oom_kill(child, 8 << 30)
        assert int(score.read_text()) == min(1000, before + 24)
        prefer_for_oom_kill(child, 120 << 20)
        assert int(score.read_text()) == 1000
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup that may use 250 MiB, where this user may make one."""
    limit = str(250 << 20)
    v1 = Path("/sys/fs/cgroup/memory")
    parent = v1 if v1.exists() else Path("/sys/fs/cgroup")
    folder = parent / f"vitriton-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"no cgroup can be made here: {exc}")
    try:
        try:
            (folder / ("memory.limit_in_bytes" if v1.exists() else "memory.max")).write_text(limit)
        except OSError as exc:
            pytest.skip(f"no limit can be set here: {exc}")
        yield folder
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), 60, "the end of all processes in the cgroup")
        folder.rmdir()


def hungry(repository: Path, at_start: int, at_request: int) -> Path:
    """A model that takes so many MiB when it is loaded, and when it is asked."""
    tensors = [("question", "TYPE_INT32", [-1])], [("answer", "TYPE_FP32", [-1])]
    folder = write_config(repository, "hungry", "python", *tensors, batch=1)
    (folder / "model.py").write_text(HUNGRY.format(at_start=at_start, at_request=at_request))
    return repository


def ask(launcher: Launcher, data: bytes, **headers: str) -> None:
    connection = http.client.HTTPConnection(launcher.address("HTTP"), timeout=60)
    connection.request("POST", "/v2/models/hungry/infer", data, headers)
    try:
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass  # Triton has died over it
    finally:
        connection.close()


QUESTION = b'{"inputs":[{"name":"question","shape":[1,1],"datatype":"INT32","data":[1]}]}'


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("who", ["a step that is loaded", "a step at a request", "Triton itself"])
def test_the_kernel_s_kill_is_told(
    who: str, small_cgroup: Path, tmp_path: Path, own_environment: dict[str, str]
) -> None:
    """Under a real limit: the error names memory, the limit, and what to do, and the launcher lives to say it."""
    repository = hungry(tmp_path, 400 if "loaded" in who else 1, 400)
    enter = ["sh", "-c", f'echo $$ > {small_cgroup}/cgroup.procs && exec "$@"', "sh"]
    arguments = ["--repository", str(repository), *PORTS, "--canary-interval", "1"]
    with Launcher(arguments, {**own_environment, "COLUMNS": "400"}, enter) as launcher:
        if "loaded" not in who:
            launcher.wait_for(READY)
            if "Triton" in who:
                ask(launcher, gzip.compress(bytes(600 << 20)), **{"Content-Encoding": "gzip"})
            else:
                ask(launcher, QUESTION)
        assert launcher.wait() == 1
        assert "the memory limit is 250 MiB, and a server with one small model takes" in launcher.output
        (error,) = [line for line in launcher.output.splitlines() if line.startswith("error:")]
        assert "for lack of memory: the limit is 250 MiB. Raise the limit (TRITON_MEMORY" in error
        assert "Traceback" not in launcher.output
