"""`vitriton export --list`: the architectures that can be exported, without importing torch or transformers."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.families import Family, lacking


def show(console: Console) -> None:
    """Prints a row for each `model_type`."""
    names = Column("model_type", no_wrap=True, min_width=max(map(len, FAMILIES)))
    table = Table(names, "--pooling", "note", title="What `vitriton export` takes", title_justify="left")
    for model_type, known in sorted(FAMILIES.items()):
        table.add_row(model_type, " ".join(known.poolings), escape(_note(known)))
    console.print(table)
    console.print(
        "--pooling pooler needs a trained pooler in the checkpoint, or one without parameters. Architectures that are "
        "not in the list are refused, with the reason.",
        highlight=False,
    )


def _note(known: Family) -> str:
    return lacking(known) or known.note
