"""Python steps that have died: Triton neither restarts nor reports them, but its list of child processes shows it.

A canary finds them too, but later: Triton takes a second or more to refuse each request of a dead step, so the canary
of a busy model waits behind others.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

INTERVAL_S = 1.0
_DEAD_AFTER_S = 2.0  # Triton reaps at once the processes that it ends itself, as when it unloads a model
_STUB = "triton_python_b"  # triton_python_backend_stub, in the kernel's 15 characters
_INSTANCE = re.compile(rb"\0([^\0/]+_\d+_\d+)\0")  # MODEL_0_0 among its arguments


def has_steps(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a tritonserver still has child processes; True where the kernel does not list them."""
    listed = list((proc / str(pid) / "task").glob("*/children"))
    return not listed or any(_state(child, proc) not in (None, "Z") for child in _children(listed))


class StepProcesses:
    """The child processes of a tritonserver, one for each instance of a Python model.

    Args:
        pid: the process id of tritonserver.
        clock: the function that returns monotonic seconds.
        proc: the folder of /proc.
    """

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic, proc: Path = Path("/proc")) -> None:
        self._pid, self._clock, self._proc = pid, clock, proc
        self._due_s = clock()
        self._names: dict[int, str] = {}
        self._ended_s: dict[int, float] = {}
        self._find_ended(self._due_s)  # a process that has ended no longer shows its name

    @property
    def suspect(self) -> bool:
        """Whether a process has ended, and it is not yet known whether Triton ended it."""
        return bool(self._ended_s)

    def delay_s(self) -> float:
        """Returns the time until the next look, in seconds."""
        return max(0.0, self._due_s - self._clock())

    def look(self) -> str | None:
        """Looks, if a look is due; returns which process has died, or None."""
        now = self._clock()
        if now < self._due_s:
            return None
        self._due_s = now + INTERVAL_S
        self._ended_s = self._find_ended(now)
        for pid, since_s in self._ended_s.items():
            if now - since_s >= _DEAD_AFTER_S:
                return f"the process of the Python step {self._names.get(pid, pid)} has ended"
        return None

    def _find_ended(self, now: float) -> dict[int, float]:
        """Returns when each ended process was first seen as ended; records the names of the others."""
        ended: dict[int, float] = {}
        for pid in _children((self._proc / str(self._pid) / "task").glob("*/children")):
            state = _state(pid, self._proc, _STUB)
            if state == "Z":
                ended[pid] = self._ended_s.get(pid, now)
            elif state is not None and pid not in self._names:
                self._names[pid] = self._name(pid)
        return ended

    def _name(self, pid: int) -> str:
        try:
            match = _INSTANCE.search((self._proc / str(pid) / "cmdline").read_bytes())
        except OSError:
            match = None
        return match[1].decode(errors="replace") if match else str(pid)


def _children(lists: Iterable[Path]) -> list[int]:
    """Returns the pids in the files task/*/children; where the kernel has none, the canary finds dead steps."""
    found: list[int] = []
    for path in lists:
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, path.read_text().split())
    return found


def _state(pid: int, proc: Path, name: str = "") -> str | None:
    """Returns the letter of a process's state; None if it is gone, or its name does not begin with `name`."""
    try:
        before, _, after = (proc / str(pid) / "stat").read_text().rpartition(") ")
    except OSError:
        return None
    return after[:1] if f"({name}" in before else None
