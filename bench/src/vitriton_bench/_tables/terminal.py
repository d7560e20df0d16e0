"""Prints tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import table as rich_table
from rich.console import Console

from vitriton_bench._tables.tables import Table, left_out, machine, photos

_WIDTH = 1000  # columns: a row stays on one line, also in a pipe; a narrow terminal wraps it better than a table does


def show(document: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Prints the machine, the tables, and the list of what was left out."""
    console = Console(width=_WIDTH)
    model = document.get("model", {}).get("label") or document.get("name", "")
    console.print(f"{model}: {photos(document)}; {machine(document)}", highlight=False, soft_wrap=True)
    for table in tables:
        shown = rich_table.Table(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if number == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown, highlight=False)
        for note in table.notes:
            console.print(note, highlight=False, soft_wrap=True)
    for line in left_out(document):
        console.print(line, highlight=False, soft_wrap=True)
