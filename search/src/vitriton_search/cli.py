"""The command `vitriton search`, a group of commands."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup
from vitriton._console.help import write_section

from vitriton_search.commands import duplicates, export, index, neighbors, query, serve


class _Group(TyperGroup):
    """A group whose help looks like that of `vitriton`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, each with the first paragraph of its help."""
        rows = [(name, (self.commands[name].help or "").partition("\n\n")[0]) for name in self.list_commands(ctx)]
        write_section("Commands", rows, formatter)


def _show_help(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    group = typer.Typer(
        cls=_Group,
        help="Search images, videos and texts by their embeddings.",
        callback=_show_help,
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    index.register(group)
    query.register(group)
    duplicates.register(group)
    neighbors.register(group)
    export.register(group)
    serve.register(group)
    app.add_typer(group, name="search")
