"""The fault of a path that a command line names, as a text that names the path and says what to do."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path

_LOOKED_AT = 10_000  # the largest number of neighbors among which a similar name is looked for


def folder_fault(path: Path, advice: str = "") -> str | None:
    """The fault of a folder to read; None if there is none.

    Args:
        path: the folder.
        advice: what to do if the folder does not exist, and none that does has a similar name.
    """
    fault = _fault(path)
    if advice and fault == f"{path} does not exist":
        return f"{fault}; {advice}"
    if fault is None and not path.is_dir():
        fault = f"{path} is a file; name a folder"
    return fault


def file_fault(path: Path) -> str | None:
    """The fault of a file to read; None if there is none. A pipe is a file, too."""
    fault = _fault(path)
    if fault is None and path.is_dir():
        fault = f"{path} is a folder; name a file"
    return fault


def target_fault(path: Path) -> str | None:
    """The fault of a file to write; None if there is none. Nothing is made."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path} cannot be written: {folder_fault(folder, 'make that folder first')}"
    if path.is_dir():
        return f"{path} is a folder; name a file"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{path} cannot be written: the folder {folder} is not writable; name another"
    return None


def missing(path: str | Path) -> str:
    """Says that a path, as it was typed, does not exist, and which similar one does."""
    similar = similar_path(Path(path).expanduser())
    return f"{path} does not exist" + ("" if similar is None else f"; did you mean {similar}?")


def similar_path(path: Path) -> Path | None:
    """The existing path that differs from a missing one in a similar name; None if there is none."""
    first = path  # the first part of the path that does not exist
    while first != first.parent and not os.path.exists(first.parent):  # noqa: PTH110 - it raises nothing
        first = first.parent
    try:
        with os.scandir(first.parent) as entries:
            names = [entry.name for entry in islice(entries, _LOOKED_AT)]
    except OSError:
        return None
    similar = (first.with_name(name) / path.relative_to(first) for name in difflib.get_close_matches(first.name, names))
    return next((each for each in similar if os.path.exists(each)), None)  # noqa: PTH110 - it raises nothing


def _fault(path: Path) -> str | None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return missing(path)
    except OSError as exc:
        return f"{path} cannot be read: {exc.strerror}"
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return f"{path} cannot be read: this user has no permission to read it"
    return None
