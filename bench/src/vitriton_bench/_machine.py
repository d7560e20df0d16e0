"""What was measured on: processor, cores, versions, and how much memory a server has."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "vitriton",
    "nvidia-pytriton",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "transformers",
    "litserve",
    "numpy",
    "pillow",
)
_PROC = Path("/proc")


def describe() -> dict[str, Any]:
    """This machine; nothing that would name it."""
    from vitriton_server import usable_cores

    return {"cpu": _cpu(), "cores": usable_cores(), "gpu": _gpu(), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    known = {}
    for name in LIBRARIES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return known


def _cpu() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def resident_bytes(process: int) -> dict[str, int]:
    """Memory of a process and all below it.

    Returns:
        "shared_once": pages that several of them share are counted once (Linux's proportional set size); "sum": what
        adding up the resident sizes gives, as `ps` shows them.
    """
    tree = _tree(process)
    return {"shared_once": sum(_field(one, "Pss:") for one in tree), "sum": sum(_field(one, "Rss:") for one in tree)}


def _tree(process: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        try:
            # the name, in brackets, may hold blanks
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
        parents.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def _field(process: int, name: str) -> int:
    try:
        lines: Sequence[str] = (_PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
