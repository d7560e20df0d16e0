"""Prints tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from vitriton._console import tables as console_tables
from vitriton._console.tables import Column

from vitriton_bench._tables.tables import Table, inputs, left_out, machine


def show(document: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Prints the machine, the tables, and the list of what was left out."""
    console = Console()
    model = document.get("model", {}).get("label") or document.get("name", "")
    console.print(f"{model}: {inputs(document)}; {machine(document)}", highlight=False, soft_wrap=True)
    for table in tables:
        columns = [Column(title, is_number=number > 0) for number, title in enumerate(table.columns)]
        console_tables.show(console, columns, table.rows, table.title)
        for note in table.notes:
            console.print(note, highlight=False, soft_wrap=True)
    for line in left_out(document):
        console.print(line, highlight=False, soft_wrap=True)
