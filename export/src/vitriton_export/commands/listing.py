"""`vitriton export --list`: the architectures that can be exported, without importing torch or transformers."""

from __future__ import annotations

from rich.console import Console
from vitriton._console import tables
from vitriton._console.tables import Column

from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.families import Family, lacking


def show(console: Console) -> None:
    """Prints a row for each `model_type`."""
    columns = (Column("model_type"), Column("--pooling", wraps=True), Column("note", wraps=True))
    rows = [(name, " ".join(known.poolings), _note(known)) for name, known in sorted(FAMILIES.items())]
    tables.show(console, columns, rows)
    if console.is_terminal:
        console.print(
            "--pooling pooler needs a trained pooler in the checkpoint, or one without parameters. Architectures that "
            "are not in the list are refused, with the reason.",
            highlight=False,
        )


def _note(known: Family) -> str:
    return lacking(known) or known.note
