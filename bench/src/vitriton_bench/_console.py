"""The parts that measuring commands share: early checks and error handling."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from vitriton._console.paths import target_fault
from vitriton.cli import fail

from vitriton_bench._errors import UnusableOption


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turns a file that cannot be read or written into one line on stderr and exit code 1."""
    try:
        yield
    except OSError as exc:
        fail(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))


def progress() -> Callable[[str], None]:
    """Shows a line of progress on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True).print


def check_file(option: str, path: Path | None) -> None:
    """Checks, before anything is measured, that an option's file can be written.

    Raises:
        UnusableOption: the file cannot be written.
    """
    if path is not None and (fault := target_fault(path)) is not None:
        raise UnusableOption(option, fault)


def check_folder(option: str, path: Path | None) -> None:
    """Checks, before anything is measured, that files can be written into an option's folder.

    Raises:
        UnusableOption: no file can be written into the folder.
    """
    if path is None:
        return
    if path.is_file():
        raise UnusableOption(option, f"{path} is a file; name a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as exc:
        raise UnusableOption(option, f"{path} cannot be written to: {exc.strerror}") from exc
