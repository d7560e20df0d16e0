"""The machine of a measurement: processor, cores, memory, versions."""

from __future__ import annotations

import platform
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
    "sentence-transformers",
    "litserve",
    "numpy",
    "pillow",
)
_PROC = Path("/proc")


def describe() -> dict[str, Any]:
    """A description of this machine that does not identify it."""
    from vitriton_server import usable_cores

    return {"cpu": _cpu(), "cores": usable_cores(), "gpu": _gpu(), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """The versions of the libraries that are installed."""
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
