"""The names of shared-memory regions, which tell whose they are, so that those of dead processes can be found.

A name is `vitriton-<scope>-<pid>-<start>-<random>`. The scope is a hash of the boot and of the namespaces in which the
process id and the start time mean something: only names of one's own scope may be judged. The start time tells the
process from a later one with the same id.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import weakref
from collections.abc import Iterable
from pathlib import Path

SHM_FOLDER = Path("/dev/shm")

_NAME = re.compile(r"vitriton-(?P<scope>[0-9a-f]{12})-(?P<pid>\d{1,10})-(?P<start>\d{1,20})-[0-9a-f]{16}")
_NAMESPACES = (Path("/proc/self/ns/pid"), Path("/proc/self/ns/time"))  # the second only since Linux 5.6
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNKNOWN = 0
_STATE, _START = 0, 19  # fields 3 and 22 of /proc/<pid>/stat, counted after the command's name (proc(5))


class Owned:
    """A region's name in this process, which is taken for abandoned when nothing holds this object any more."""

    def __init__(self) -> None:
        self.name = f"vitriton-{_scope()}-{os.getpid()}-{_start_time(os.getpid())}-{secrets.token_hex(8)}"
        _OWNED[self.name] = self


_OWNED: weakref.WeakValueDictionary[str, Owned] = weakref.WeakValueDictionary()


def dead_regions(names: Iterable[str]) -> list[str]:
    """Those of `names` that belong to nobody any more, as far as this process can tell."""
    scope = _scope()
    return [name for name in names if _is_dead(name, scope)]


def unlink_dead() -> None:
    """Removes what processes that were killed have left in /dev/shm."""
    with contextlib.suppress(OSError):
        for name in dead_regions(path.name for path in SHM_FOLDER.glob("vitriton-*")):
            (SHM_FOLDER / name).unlink(missing_ok=True)


def _is_dead(name: str, scope: str) -> bool:
    match = _NAME.fullmatch(name)
    if match is None or match["scope"] != scope:
        return False
    pid = int(match["pid"])
    if pid == os.getpid():
        return name not in _OWNED
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    start = _start_time(pid)  # unknown also where other users' processes are hidden (hidepid): then it lives
    return _UNKNOWN not in (start, int(match["start"])) and start != int(match["start"])


def _start_time(pid: int) -> int:
    """In clock ticks after boot; _UNKNOWN where it cannot be read; -1 for a process that only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[_STATE] in "ZX" else int(fields[_START])
    except (OSError, IndexError, ValueError):
        return _UNKNOWN


def _scope() -> str:
    """Twelve hexadecimal digits; random, so that nothing can be judged, where the host does not tell."""
    try:
        if Path("/proc/self").readlink().name != str(os.getpid()):  # /proc is of another pid namespace
            return _RANDOM_SCOPE
        parts = [_BOOT_ID.read_text(), *(str(path.readlink()) for path in _NAMESPACES if path.is_symlink())]
    except OSError:
        return _RANDOM_SCOPE
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


_RANDOM_SCOPE = secrets.token_hex(6)
