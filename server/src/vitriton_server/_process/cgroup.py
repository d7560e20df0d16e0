"""The folders with the kernel's limits for this process: its cgroup and those above it, in version 1 or 2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CgroupMount:
    """A cgroup hierarchy as /proc/self/mountinfo describes it.

    Attributes:
        root: the cgroup that is visible at `mount_point` ("/" unless a container sees only a part).
        mount_point: the folder of the mount.
        unified: whether it is cgroup v2, not v1.
    """

    root: str
    mount_point: str
    unified: bool


def parse_cgroup(text: str, controller: str) -> dict[bool, str]:
    """Parses /proc/self/cgroup → {unified: this process's cgroup}, for v2 (True) and v1's controller (False)."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups[True] = path
        elif controller in controllers.split(","):
            groups[False] = path
    return groups


def parse_mountinfo(text: str, controller: str) -> list[CgroupMount]:
    """Parses /proc/self/mountinfo → the hierarchies that can hold the controller's limits (fields: proc(5))."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")):
            mounts.append(CgroupMount(fields[3], fields[4], kind[0] == "cgroup2"))
    return mounts


def folders_upwards(mount: CgroupMount, group: str) -> Iterable[str]:
    """Yields the folders of a cgroup and of all visible ones above it; each may hold a limit."""
    inside = group
    if mount.root != "/":
        # Outside the mount: only the mount itself is visible (a container without a cgroup namespace).
        inside = group[len(mount.root) :] if f"{group}/".startswith(f"{mount.root}/") else "/"
    parts = [part for part in inside.split("/") if part and part != ".."]
    for length in range(len(parts), -1, -1):
        yield "/".join([mount.mount_point.rstrip("/"), *parts[:length]])


def folders(controller: str, root: Path = Path("/")) -> list[tuple[Path, bool]]:
    """Returns the folders with this process's limits, its own cgroup's first, and whether each has version 2.

    Args:
        controller: the name of the controller in version 1: `cpu` or `memory`.
        root: the folder of /proc and /sys; tests pass their own.
    """
    groups = parse_cgroup(read(root / "proc/self/cgroup"), controller)
    return [
        (root / folder.lstrip("/"), mount.unified)
        for mount in parse_mountinfo(read(root / "proc/self/mountinfo"), controller)
        if mount.unified in groups
        for folder in folders_upwards(mount, groups[mount.unified])
    ]


def read(path: Path) -> str:
    """Returns a file's text; empty if it is missing or unreadable, which sets no limit."""
    try:
        return path.read_text()
    except OSError:
        return ""
