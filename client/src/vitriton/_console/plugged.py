"""Commands of other distributions, as entry points: how one is loaded, and what is said of one that cannot be."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from vitriton._console.diagnosis import how_to_install
from vitriton._console.failure import CommandFailed


def plugged_command(group: str, name: str, distribution: str) -> Any:
    """Loads the command that takes the place of another one, if an option says so.

    Args:
        group: the group of entry points, each of which loads a function `register(app: typer.Typer)`.
        name: the name of the entry point.
        distribution: the distribution that has it.

    Raises:
        CommandFailed: it is not installed, or cannot be loaded.
    """
    entry = next(iter(entry_points(group=group, name=name)), None)
    if entry is None:
        raise CommandFailed(f"this needs {distribution}; install it with {how_to_install(distribution)}")
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    try:
        entry.load()(app)
        return typer.main.get_command(app)
    # A plug-in is foreign code and can fail in any way.
    except Exception as exc:
        raise CommandFailed(failure_of(entry, exc)) from exc


def distribution_of(entry: EntryPoint) -> str:
    """The name of the distribution that an entry point comes from."""
    return entry.dist.name if entry.dist is not None else entry.value


def failure_of(entry: EntryPoint, error: Exception) -> str:
    """The text for a command that cannot be loaded."""
    reason = " ".join(str(error).split()) or "no reason given"
    return f"`vitriton {entry.name}` of {distribution_of(entry)} cannot be loaded: {type(error).__name__}: {reason}"
