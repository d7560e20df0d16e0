"""Processes that the kernel has killed for lack of memory: which limit it was, and which process goes first."""

from __future__ import annotations

import contextlib
import math
import re
import signal
from pathlib import Path

from vitriton._console.diagnosis import size

from vitriton_server._process.cgroup import folders, read

_LITTLE_BYTES = 256 << 20  # launcher, tritonserver and the steps of one small export take about this
_OWN_BYTES = 192 << 20  # more than the launcher and the guard take
_MAX_SCORE = 1000  # of oom_score_adj
_REMEDY = (
    "Raise the limit (TRITON_MEMORY of the compose files, --memory of `docker run`), or serve less: fewer models or "
    "instances, a smaller --max-batch-size, limits on images"
)
_KILLED = 128 + signal.SIGKILL


class MemoryWatch:
    """Notices processes that the kernel has killed for lack of memory, since it was made or last asked.

    Args:
        root: the folder of /proc and /sys; tests pass their own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._kills_before = kills(root)

    def verdict(self, exit_status: int | None) -> str | None:
        """Says which part memory had when a process has ended; None where it had none.

        Args:
            exit_status: the exit status of tritonserver, 128 + N for a signal N; None while it runs.
        """
        count = kills(self._root)
        if count is None or self._kills_before is None:
            if exit_status != _KILLED:
                return None
            return f"it was killed, probably by the kernel for lack of memory (check `dmesg | grep -i oom`). {_REMEDY}"
        if count <= self._kills_before:
            return None
        self._kills_before = count
        limit = limit_bytes(self._root)
        whose = "the machine has no more" if limit is None else f"the limit is {size(limit)}"
        return f"the kernel has killed a process of the server for lack of memory: {whose}. {_REMEDY}"


def memory_warning(limit: int | None) -> str | None:
    """Returns a warning for a limit in bytes so low that the launcher itself may be killed; None where it suffices."""
    if limit is None or limit >= _LITTLE_BYTES:
        return None
    least = size(_LITTLE_BYTES)
    return f"the memory limit is {size(limit)}, and a server with one small model takes about {least}. {_REMEDY}"


def limit_bytes(root: Path = Path("/")) -> int | None:
    """Returns the lowest memory limit for this process, in bytes; None without one."""
    texts = [read(place / ("memory.max" if v2 else "memory.limit_in_bytes")) for place, v2 in folders("memory", root)]
    limits = [int(text) for text in texts if text.strip().isdigit()]
    return min((limit for limit in limits if limit < 1 << 60), default=None)  # v1 writes a large number for none


def kills(root: Path = Path("/")) -> int | None:
    """Returns how many processes of this cgroup the kernel has killed for lack of memory; None where it is unknown."""
    for place, v2 in folders("memory", root):
        match = re.search(r"^oom_kill (\d+)$", read(place / ("memory.events" if v2 else "memory.oom_control")), re.M)
        if match is not None:  # the first is the process's own cgroup, which counts kills by any limit
            return int(match[1])
    return None


def prefer_for_oom_kill(pid: int, limit: int | None) -> None:
    """Makes the kernel kill this process or its children before the launcher, which has to report it.

    Args:
        pid: the process id of tritonserver.
        limit: the memory limit in bytes; None: nothing is changed, so that it is treated as other processes are.
    """
    if limit is None:
        return
    path = Path(f"/proc/{pid}/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        before = int(path.read_text())
        path.write_text(str(min(_MAX_SCORE, before + math.ceil(_MAX_SCORE * _OWN_BYTES / limit))))
