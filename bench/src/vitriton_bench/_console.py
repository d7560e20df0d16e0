"""What commands of measurements share: what they check before they begin, and how they end."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from vitriton.cli import fail

from vitriton_bench._errors import UnusableOption


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """A file that cannot be read or written is one line on stderr, and exit code 1."""
    try:
        yield
    except OSError as exc:
        fail(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))


def progress() -> Callable[[str], None]:
    """Shows a line of progress on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True).print


def check_file(option: str, path: Path | None) -> None:
    """Finds out, before anything is measured, whether the file that an option names can be written.

    Raises:
        UnusableOption: it cannot.
    """
    if path is None:
        return
    if path.is_dir():
        raise UnusableOption(option, f"{path} is a folder; name a file")
    _check_written(option, path.parent)


def check_folder(option: str, path: Path | None) -> None:
    """Finds out, before anything is measured, whether files can be written into the folder that an option names.

    Raises:
        UnusableOption: files cannot be written into it.
    """
    if path is None:
        return
    if path.is_file():
        raise UnusableOption(option, f"{path} is a file; name a folder")
    _check_written(option, path)


def _check_written(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise UnusableOption(option, f"{folder} cannot be written to: {exc.strerror}") from exc
