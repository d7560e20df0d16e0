"""How many cores this process may really use: its affinity and its cgroup's CPU quota, not the host's count."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CgroupMount:
    """A cgroup hierarchy as /proc/self/mountinfo describes it.

    Attributes:
        root: the cgroup that is visible at `mount_point` ("/" unless a container sees only its own part).
        mount_point: the folder.
        unified: True for cgroup v2, False for v1's `cpu` controller.
    """

    root: str
    mount_point: str
    unified: bool


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use, at least 1.

    Args:
        root: where /proc and /sys are looked for; tests give their own.
    """
    return combine(len(os.sched_getaffinity(0)), read_quota(root))


def combine(affinity: int, quota: float | None) -> int:
    """The smaller of both; part of a core counts as one, because a thread less would leave that part idle."""
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def read_quota(root: Path = Path("/")) -> float | None:
    """The tightest CPU quota above this process, in cores; None without one.

    A file that is missing or unreadable sets no limit.
    """
    mounts = parse_mountinfo(_read(root / "proc/self/mountinfo"))
    groups = parse_cgroup(_read(root / "proc/self/cgroup"))
    limits = []
    for mount in mounts:
        group = groups.get(mount.unified)
        if group is None:
            continue
        for folder in folders_upwards(mount, group):
            place = root / folder.lstrip("/")
            if mount.unified:
                limits.append(parse_cpu_max(_read(place / "cpu.max")))
            else:
                limits.append(parse_cfs(_read(place / "cpu.cfs_quota_us"), _read(place / "cpu.cfs_period_us")))
    return min((limit for limit in limits if limit is not None), default=None)


def parse_cgroup(text: str) -> dict[bool, str]:
    """/proc/self/cgroup → {unified: this process's cgroup}, for v2 (True) and v1's cpu controller (False)."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups[True] = path
        elif "cpu" in controllers.split(","):
            groups[False] = path
    return groups


def parse_mountinfo(text: str) -> list[CgroupMount]:
    """/proc/self/mountinfo → the hierarchies that can hold a CPU quota (see man 5 proc for the fields)."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            mounts.append(CgroupMount(fields[3], fields[4], kind[0] == "cgroup2"))
    return mounts


def folders_upwards(mount: CgroupMount, group: str) -> Iterable[str]:
    """The folders of a cgroup and of all above it that are visible; each may hold a quota."""
    inside = group
    if mount.root != "/":
        # Outside of what is mounted: the mount itself is all that can be seen (a container without a cgroup namespace).
        inside = group[len(mount.root) :] if f"{group}/".startswith(f"{mount.root}/") else "/"
    parts = [part for part in inside.split("/") if part and part != ".."]
    for length in range(len(parts), -1, -1):
        yield "/".join([mount.mount_point.rstrip("/"), *parts[:length]])


def parse_cpu_max(text: str) -> float | None:
    """The cpu.max of cgroup v2 ("200000 100000" or "max 100000") → cores."""
    quota, _, period = text.strip().partition(" ")
    return _ratio(quota, period)


def parse_cfs(quota: str, period: str) -> float | None:
    """The cpu.cfs_quota_us (-1: none) and cpu.cfs_period_us of cgroup v1 → cores."""
    return _ratio(quota.strip(), period.strip())


def _ratio(quota: str, period: str) -> float | None:
    if not quota.isdigit() or not period.isdigit() or int(quota) == 0 or int(period) == 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
