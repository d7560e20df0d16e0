"""Python steps whose processes have ended, as /proc shows them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from server.processes import children
from vitriton_server import ServerDied, TritonServer
from vitriton_server._watch.steps import StepProcesses

SERVER, STEP, OTHER = 100, 101, 102


class Proc:
    """A folder like /proc, and a clock that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 50.0
        for thread, pids in {100: [STEP], 117: [OTHER]}.items():
            task = folder / str(SERVER) / "task" / str(thread)
            task.mkdir(parents=True)
            (task / "children").write_text(" ".join(map(str, pids)) + " ")
        self.set(STEP, "S")
        self.set(OTHER, "S", name="sh")

    def set(self, pid: int, state: str, name: str = "triton_python_b") -> None:
        (self.folder / str(pid)).mkdir(exist_ok=True)
        (self.folder / str(pid) / "stat").write_text(f"{pid} ({name}) {state} {SERVER} 1 1")
        line = b"" if state == "Z" else b"/x/stub\0/models/a/1/model.py\0a_pre_0_0\0DEFAULT\0"
        (self.folder / str(pid) / "cmdline").write_bytes(line)

    def steps(self) -> StepProcesses:
        return StepProcesses(SERVER, clock=lambda: self.now_s, proc=self.folder)

    def after(self, steps: StepProcesses, seconds: float) -> str | None:
        self.now_s += seconds
        return steps.look()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_one_that_nobody_collects_is_dead(proc: Proc) -> None:
    """After two seconds, with the name that it had when it lived."""
    steps = proc.steps()
    assert steps.look() is None
    proc.set(STEP, "Z")
    assert [proc.after(steps, 1) for _ in range(2)] == [None, None]
    assert steps.suspect
    assert proc.after(steps, 1) == "the process of the Python step a_pre_0_0 has ended"


def test_one_that_triton_has_ended_is_not(proc: Proc) -> None:
    """Triton collects it; it is gone at the next look."""
    steps = proc.steps()
    proc.set(STEP, "Z")
    assert steps.look() is None
    (proc.folder / "100/task/100/children").write_text("")
    assert proc.after(steps, 5) is None
    assert not steps.suspect


def test_others_do_not_matter(proc: Proc) -> None:
    """What a model has started itself."""
    steps = proc.steps()
    proc.set(OTHER, "Z", name="sh")
    assert [proc.after(steps, 3) for _ in range(3)] == [None] * 3


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    """Then the canary alone watches."""
    steps = StepProcesses(SERVER, proc=tmp_path)
    assert steps.look() is None
    assert not steps.suspect


def test_it_looks_when_it_is_due(proc: Proc) -> None:
    """Once a second."""
    steps = proc.steps()
    steps.look()
    proc.now_s += 0.25
    assert steps.delay_s() == 0.75


@pytest.mark.usefixtures("subprocesses")
def test_a_server_notices_at_once(python_repository: Path) -> None:
    """Without any question of the canary: a step is killed, and the server says which and ends."""
    with TritonServer(python_repository) as server:
        stub = next(pid for pid, line in children(server.pid).items() if "tiny_preprocess_0_0" in line)
        os.kill(stub, signal.SIGKILL)
        with pytest.raises(ServerDied, match="the process of the Python step tiny_preprocess_0_0 has ended"):
            server.wait(60)
