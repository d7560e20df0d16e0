"""Whether the kernel has ended something for want of memory, which limit it was, and whom it is to take."""

from __future__ import annotations

import contextlib
import math
import re
import signal
from pathlib import Path

from vitriton_server._process.cgroup import folders, read

_LITTLE_BYTES = 256 << 20  # launcher, tritonserver and the steps of one small export take about that
_OWN_BYTES = 192 << 20  # more than launcher and guard take
_MOST = 1000  # of oom_score_adj
_REMEDY = (
    "Raise the limit (TRITON_MEMORY of the compose files, --memory of `docker run`), or serve less: fewer models or "
    "instances, a smaller --max-batch-size, limits on images"
)
_KILLED = 128 + signal.SIGKILL


class MemoryWatch:
    """What has happened since this was made, or last told.

    Args:
        root: where /proc and /sys are looked for; tests give their own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._kills_before = kills(root)

    def verdict(self, exit_status: int | None) -> str | None:
        """What to tell of memory when something has ended; None where memory had no part in it.

        Args:
            exit_status: tritonserver's, 128 + N for a signal N; None while it runs.
        """
        count = kills(self._root)
        if count is None or self._kills_before is None:
            if exit_status != _KILLED:
                return None
            return f"it was killed, probably by the kernel for want of memory (`dmesg | grep -i oom` tells). {_REMEDY}"
        if count <= self._kills_before:
            return None
        self._kills_before = count
        limit = limit_bytes(self._root)
        whose = "the machine has no more" if limit is None else f"the limit is {size(limit)}"
        return f"the kernel has ended a process of the server for want of memory: {whose}. {_REMEDY}"


def too_little(limit: int | None) -> str | None:
    """What to tell before a start under a limit in bytes that may end the launcher itself; None where it is enough."""
    if limit is None or limit >= _LITTLE_BYTES:
        return None
    least = size(_LITTLE_BYTES)
    return f"the memory limit is {size(limit)}, and a server with one small model takes about {least}. {_REMEDY}"


def limit_bytes(root: Path = Path("/")) -> int | None:
    """The tightest memory limit above this process, in bytes; None without one."""
    texts = [read(place / ("memory.max" if v2 else "memory.limit_in_bytes")) for place, v2 in folders("memory", root)]
    limits = [int(text) for text in texts if text.strip().isdigit()]
    return min((limit for limit in limits if limit < 1 << 60), default=None)  # v1 has a large number for none


def kills(root: Path = Path("/")) -> int | None:
    """How many processes of this one's cgroup the kernel has killed for want of memory; None where it does not tell."""
    for place, v2 in folders("memory", root):
        match = re.search(r"^oom_kill (\d+)$", read(place / ("memory.events" if v2 else "memory.oom_control")), re.M)
        if match is not None:  # the first is the own cgroup, which counts whatever limit it was
            return int(match[1])
    return None


def offer_first(pid: int, limit: int | None) -> None:
    """Makes the kernel take this process, and what it starts, before the launcher, which has to tell of it.

    Args:
        pid: of tritonserver.
        limit: in bytes; without one nothing is done, so that it stays one among all processes of the machine.
    """
    if limit is None:
        return
    path = Path(f"/proc/{pid}/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        before = int(path.read_text())
        path.write_text(str(min(_MOST, before + math.ceil(_MOST * _OWN_BYTES / limit))))


def size(count: int) -> str:
    """A number of bytes for a person."""
    unit, name = (1 << 30, "GiB") if count >= 1 << 30 else (1 << 20, "MiB")
    return f"{count / unit:.3g} {name}"
