"""The number of cores that this process may use, by its affinity and its cgroup's CPU quota, not the host's count."""

from __future__ import annotations

import math
import os
from pathlib import Path

from vitriton_server._process.cgroup import folders, read


def usable_cores(root: Path = Path("/")) -> int:
    """Returns the number of cores that this process may use, at least 1.

    Args:
        root: the folder of /proc and /sys; tests pass their own.
    """
    return combine(len(os.sched_getaffinity(0)), read_quota(root))


def combine(affinity: int, quota: float | None) -> int:
    """Returns the smaller number; part of a core counts as one, as one thread fewer would leave that part idle."""
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def read_quota(root: Path = Path("/")) -> float | None:
    """Returns the lowest CPU quota for this process, in cores; None without one.

    A missing or unreadable file sets no limit.
    """
    limits = []
    for folder, unified in folders("cpu", root):
        if unified:
            limits.append(parse_cpu_max(read(folder / "cpu.max")))
        else:
            limits.append(parse_cfs(read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")))
    return min((limit for limit in limits if limit is not None), default=None)


def parse_cpu_max(text: str) -> float | None:
    """Parses cpu.max of cgroup v2 ("200000 100000" or "max 100000") → cores."""
    quota, _, period = text.strip().partition(" ")
    return _ratio(quota, period)


def parse_cfs(quota: str, period: str) -> float | None:
    """Parses cpu.cfs_quota_us (-1: none) and cpu.cfs_period_us of cgroup v1 → cores."""
    return _ratio(quota.strip(), period.strip())


def _ratio(quota: str, period: str) -> float | None:
    if not quota.isdigit() or not period.isdigit() or int(quota) == 0 or int(period) == 0:
        return None
    return int(quota) / int(period)
