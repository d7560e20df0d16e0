"""The machine: system, Python, cores, memory, GPUs and space on the disk."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from vitriton._console.diagnosis import Finding, free_space, size

_GPU_S = 10.0  # seconds; the driver may have to wake up first


def findings() -> Iterator[Finding]:
    """Finds the facts of this machine."""
    yield Finding("system", _system())
    where = "in a virtual environment" if sys.prefix != sys.base_prefix else "outside of a virtual environment"
    yield Finding("python", f"{platform.python_implementation()} at {sys.executable}, {where}")
    yield Finding("cores", _cores())
    with contextlib.suppress(ValueError, OSError, AttributeError):  # Windows has no sysconf
        yield Finding("memory", size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    yield Finding("GPU", _gpus())
    yield Finding("this folder", free_space(Path.cwd()))
    yield Finding("cache", free_space(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitriton"))


def _system() -> str:
    parts = [f"{platform.system()} {platform.release()} {platform.machine()}"]
    with contextlib.suppress(OSError):  # no Linux
        parts.append(platform.freedesktop_os_release()["PRETTY_NAME"])
    parts.append(" ".join(platform.libc_ver()))
    return ", ".join(part for part in parts if part.strip())


def _cores() -> str:
    there = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return f"{usable} of {there}"


def _gpus() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "none (no nvidia-smi)"
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_S, check=False)
    except (OSError, subprocess.SubprocessError) as exc:
        return f"unknown: nvidia-smi failed ({type(exc).__name__})"
    lines = "; ".join(done.stdout.splitlines()) or " ".join(done.stderr.split())
    return lines if done.returncode == 0 and lines else f"none (nvidia-smi: {lines or f'exit code {done.returncode}'})"
