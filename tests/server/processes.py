"""What /proc says about processes, and waiting for it to change."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

_POLL_S = 0.05


def children(pid: int) -> dict[int, str]:
    """The living children of a process, with their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(folder.name))
        if fields and fields[1] == str(pid) and fields[0] != "Z":
            with contextlib.suppress(OSError):  # it has just ended
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    fields = _fields(pid)
    return bool(fields) and fields[0] != "Z"


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has collected it."""
    return _fields(pid)[:1] == ["Z"]


def thread_count(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def shared_memory(tritonserver: int) -> list[Path]:
    """The regions in /dev/shm of a running tritonserver, known by the prefix on its command line."""
    line = Path(f"/proc/{tritonserver}/cmdline").read_bytes().decode()
    match = re.search(r"shm-region-prefix-name=(vitriton_\w+_)", line)
    assert match is not None, line
    return list(Path("/dev/shm").glob(f"{match[1]}*"))


def wait_until(holds: Callable[[], object], timeout_s: float, what: str) -> float:
    """Returns after how many seconds it held; fails when it did not in time."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(_POLL_S)
    return time.monotonic() - start


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
