"""Counting the cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vitriton_server import usable_cores
from vitriton_server._process.cgroup import CgroupMount, folders_upwards, parse_cgroup, parse_mountinfo
from vitriton_server._process.cores import combine, parse_cfs, parse_cpu_max, read_quota

V2_MOUNT = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "33 32 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
V1_OTHER = "34 32 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
CONTAINER_V1 = "33 32 0:28 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.5, 1), (2, 16.0, 2), (1, None, 1), (4, 4.0, 4)],
)
def test_the_smaller_of_affinity_and_quota(affinity: int, quota: float | None, cores: int) -> None:
    """A quota of a core and a half keeps two threads busy for a part of the time."""
    assert combine(affinity, quota) == cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000", 1.5),
        ("max 100000\n", None),
        ("max", None),
        ("", None),
        ("0 100000", None),
        ("100000", None),
        ("nonsense here", None),
    ],
)
def test_cpu_max_of_v2(text: str, cores: float | None) -> None:
    """What cannot be read sets no limit."""
    assert parse_cpu_max(text) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("250000\n", "100000\n", 2.5), ("-1\n", "100000\n", None), ("", "", None), ("100000", "0", None)],
)
def test_cfs_quota_of_v1(quota: str, period: str, cores: float | None) -> None:
    """-1 is v1's word for no quota."""
    assert parse_cfs(quota, period) == cores


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("0::/user.slice/a.scope\n", {True: "/user.slice/a.scope"}),
        ("4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n", {False: "/docker/abc"}),
        ("1:cpu:/\n0::/\n", {False: "/", True: "/"}),
        ("2:cpuset:/x\n", {}),
        ("0::/with:colon\n", {True: "/with:colon"}),
        ("", {}),
    ],
)
def test_the_cgroups_of_this_process(text: str, groups: dict[bool, str]) -> None:
    """Only v2 and v1's cpu controller count; cpuset and cpuacct are other things."""
    assert parse_cgroup(text, "cpu") == groups


def test_the_mounted_hierarchies() -> None:
    """A cgroup of another controller and a broken line are left out."""
    assert parse_mountinfo(V2_MOUNT + V1_MOUNT + V1_OTHER + "broken\n", "cpu") == [
        CgroupMount("/", "/sys/fs/cgroup", True),
        CgroupMount("/", "/sys/fs/cgroup/cpu,cpuacct", False),
    ]


@pytest.mark.parametrize(
    ("root", "group", "folders"),
    [
        ("/", "/a/b", ["/cg/a/b", "/cg/a", "/cg"]),
        ("/", "/", ["/cg"]),
        ("/docker/abc", "/docker/abc/in", ["/cg/in", "/cg"]),
        ("/docker/abc", "/docker/abc", ["/cg"]),
        ("/docker/abc", "/elsewhere", ["/cg"]),
        ("/docker/abc", "/docker/abcdef", ["/cg"]),
        ("/", "/../outside", ["/cg/outside", "/cg"]),
    ],
)
def test_a_quota_may_be_on_every_level(root: str, group: str, folders: list[str]) -> None:
    """All folders from the own cgroup up to the mount are looked at; what is outside of the mount is not."""
    assert list(folders_upwards(CgroupMount(root, "/cg", True), group)) == folders


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        (
            {
                "proc/self/mountinfo": V2_MOUNT,
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/mountinfo": CONTAINER_V1,
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/mountinfo": V2_MOUNT + V1_MOUNT,
                "proc/self/cgroup": "1:cpu:/\n0::/\n",
                "sys/fs/cgroup/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
    ],
    ids=["nothing", "v2 above", "v1 in a container", "both"],
)
def test_the_tightest_quota_wins(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    """Read from files as the kernel shows them; a missing one sets no limit."""
    assert read_quota(write(tmp_path, files)) == quota


def test_this_machine() -> None:
    """The count is never more than this process is bound to, and never 0."""
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
