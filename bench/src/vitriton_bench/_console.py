"""What commands of measurements share: what they check before they begin, and how they end."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from vitriton.cli import fail

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


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
        typer.BadParameter: it cannot.
    """
    if path is None:
        return
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file", param_hint=option)
    _check_written(option, path.parent)


def check_folder(option: str, path: Path | None) -> None:
    """Finds out, before anything is measured, whether files can be written into the folder that an option names.

    Raises:
        typer.BadParameter: files cannot be written into it.
    """
    if path is None:
        return
    if path.is_file():
        raise typer.BadParameter(f"{path} is a file; name a folder", param_hint=option)
    _check_written(option, path)


def exit_if_interrupted(document: Mapping[str, Any]) -> None:
    """Ends the command as an interrupted one, once it has shown what was measured.

    Raises:
        typer.Exit: with exit code 130.
    """
    if document.get("interrupted"):
        raise typer.Exit(_INTERRUPTED)


def _check_written(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise typer.BadParameter(f"{folder} cannot be written to: {exc.strerror}", param_hint=option) from exc
