"""What `vitriton doctor` is told: facts about this machine, and the problems among them.

An entry point of the group `vitriton.checks` has the name of its distribution and loads a function without arguments
that yields the distribution's findings. It must be quick, and import nothing slow.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

CHECKS = "vitriton.checks"

# The folders of the project's distributions in a checkout, from which they are installed: they are on no index.
_FOLDERS = {
    "vitriton": "client",
    **{f"vitriton-{folder}": folder for folder in ("export", "server", "bench", "api", "search", "ray")},
}


class Finding(NamedTuple):
    """A fact about this machine or about what is installed.

    Attributes:
        name: the name of the fact.
        value: the fact, in words.
        problem: the text that says what cannot work, why, and what to do. None: nothing is wrong.
    """

    name: str
    value: str
    problem: str | None = None


def how_to_install(*distributions: str, again: bool = False) -> str:
    """The command that installs distributions of the project, or any other one."""
    options = ["--force-reinstall"] if again else []
    named = [f"./{_FOLDERS[name]}" if name in _FOLDERS else name for name in distributions]
    where = " (from the root of the repository)" if _FOLDERS.keys() & set(distributions) else ""
    return f"`{' '.join(['pip install', *options, *named])}`{where}"


def without_secrets(url: str) -> str:
    """A URL without a user, a password and what follows the host, to be shown."""
    scheme, separator, rest = url.rpartition("://")
    user, _, host = rest.rpartition("@")
    host = re.split(r"[/?#]", host)[0]
    return f"{scheme}{separator}{'***@' if user else ''}{host}"


def free_space(folder: Path) -> str:
    """A folder, and the free space of its file system; for a missing folder, of the nearest one above it."""
    existing = next((place for place in (folder, *folder.parents) if place.exists()), None)
    try:
        free = "unknown" if existing is None else size(shutil.disk_usage(existing).free)
    except OSError as exc:
        free = f"unknown ({exc.strerror})"
    return f"{folder} ({free} free)"


def size(count: int) -> str:
    """A number of bytes, in words."""
    unit, name = (1 << 30, "GiB") if count >= 1 << 30 else (1 << 20, "MiB")
    return f"{count / unit:.3g} {name}"
