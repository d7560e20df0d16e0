"""Steps, processes and containers that die: found, healthy again by themselves, and a stream that loses nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from compose.conftest import TINY
from compose.project import ROOT, Project, pids
from server.processes import wait_until
from vitriton import Client

PHOTOS = [path.read_bytes() for path in sorted((ROOT / "examples" / "photos").glob("*.jpg"))]
FOUND_S = 120.0
HEALTHY_S = 300.0
STREAM_S = 300.0  # for the whole stream, the restart within it

# Takes memory until the kernel ends the step, which it is told to prefer.
EATER = """
import pathlib, sys
step = pathlib.Path("/proc") / sys.argv[1]
(step / "oom_score_adj").write_text("1000")
taken = []
while " Z " not in (step / "stat").read_text():  # nobody collects it
    taken.append(bytearray(b"x") * (8 << 20))
print("ended")
"""


class Endless:
    """Photos without end, until it is told to stop; then `sent` of them were asked for."""

    def __init__(self) -> None:
        self.sent = 0
        self._ends = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        while not self._ends.is_set():
            yield PHOTOS[self.sent % len(PHOTOS)]
            self.sent += 1

    def stop(self) -> None:
        """The next photo is the last."""
        self._ends.set()


class Stream:
    """A client's stream in a thread of its own, for as long as the block."""

    def __init__(self, *addresses: str) -> None:
        self._photos = Endless()
        self._addresses = addresses
        self._answers: list[np.ndarray] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._photos.stop()
        self._thread.join(STREAM_S)

    def goes_on(self) -> None:
        """Returns once as many answers more have come as there are photos."""
        wanted = len(self._answers) + len(PHOTOS)
        wait_until(lambda: len(self._answers) >= wanted or not self._thread.is_alive(), STREAM_S, "answers come")

    def check(self) -> None:
        """Every photo was answered, in order, with its own embedding. After the block."""
        assert self._failure is None, self._failure
        assert not self._thread.is_alive()
        assert len(self._answers) == self._photos.sent >= len(PHOTOS)
        expected = self._answers[: len(PHOTOS)]
        for index, answer in enumerate(self._answers):
            assert np.abs(answer - expected[index % len(PHOTOS)]).max() < 1e-4, index

    def _run(self) -> None:
        try:
            with Client(list(self._addresses), model=TINY) as client:
                for result in client.stream(self._photos, timeout_s=STREAM_S):
                    if result.error is not None:
                        raise result.error
                    self._answers.append(result.embedding)
        except BaseException as exc:
            self._failure = exc


def starts(project: Project) -> str:
    """Changes whenever Triton's container starts."""
    return str(project.inspect("triton")["State"]["StartedAt"])


def ends(project: Project) -> tuple[str, int]:
    """Changes as soon as the launcher has given Triton up, or its container has ended."""
    return starts(project), project.logs("triton").count("error: ")


def step(project: Project, name: str) -> int:
    """The id, on this machine, of the process that runs a Python step."""
    found = [pid for pid, line in pids(project.container("triton")).items() if f" {TINY}_{name}_0_0 " in line]
    assert len(found) == 1
    return found[0]


def in_container(project: Project, pid: int) -> int:
    """The id of a process inside of its container."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def kill_preprocessing(project: Project) -> None:
    """Kill -9 of the step that decodes; Triton itself goes on, and goes on saying that it is ready."""
    number = in_container(project, step(project, "preprocess"))
    project.execute("triton", "python3", "-c", f"import os; os.kill({number}, {int(signal.SIGKILL)})")
    with contextlib.closing(HTTPConnection(project.address("http"), timeout=10)) as connection:
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200


def exhaust_memory(project: Project) -> None:
    """The container's memory is full, and the kernel takes the step that decodes."""
    pid = step(project, "preprocess")
    ate = project.execute("triton", "python3", "-c", EATER, str(in_container(project, pid)))
    assert ate.stdout.strip() == "ended"


def kill_container(project: Project) -> None:
    """Kill -9 of the container's first process, as when the machine runs out of memory.

    Not `docker kill`, which also tells the engine that somebody wants the container to be down.
    """
    os.kill(int(project.inspect("triton")["State"]["Pid"]), signal.SIGKILL)


def heals(project: Project, fault: Callable[[Project], None]) -> None:
    """After the fault Triton's container starts again within the time that it may take, and is healthy."""
    with Stream(project.address("grpc")) as stream:
        before, started = ends(project), starts(project)
        fault(project)
        wait_until(lambda: ends(project) != before, FOUND_S, "the fault is found")
        wait_until(lambda: starts(project) != started, HEALTHY_S, "started again")
        wait_until(lambda: project.health("triton") == "healthy", HEALTHY_S, "healthy again")
        stream.goes_on()
    stream.check()


def test_a_killed_step(small):
    """The canary finds it, though Triton calls itself ready."""
    heals(small, kill_preprocessing)


@pytest.mark.long
def test_a_step_out_of_memory(small):
    """The same, when the kernel ends it."""
    heals(small, exhaust_memory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may kill a container's first process")
def test_a_killed_container(small):
    """The engine starts it again."""
    heals(small, kill_container)
