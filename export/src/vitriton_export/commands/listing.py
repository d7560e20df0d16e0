"""`vitriton export --list`: the architectures that can be exported, without importing torch or transformers."""

from __future__ import annotations

from rich.console import Console
from vitriton._console import tables
from vitriton._console.tables import Column

from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.families import Architecture, lacking
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES, TEXT_TOWERS


def show(console: Console) -> None:
    """Prints a row for each `model_type`."""
    columns = (Column("model_type"), Column("takes"), Column("--pooling", wraps=True), Column("note", wraps=True))
    families: dict[str, tuple[str, Architecture]] = {name: ("texts", known) for name, known in TEXT_FAMILIES.items()}
    families |= {
        name: ("images, texts" if name in TEXT_TOWERS else "images", known) for name, known in FAMILIES.items()
    }
    rows = [(name, takes, " ".join(known.poolings), _note(known)) for name, (takes, known) in sorted(families.items())]
    tables.show(console, columns, rows)
    if console.is_terminal:
        console.print(
            "--pooling pooler needs a trained pooler in the checkpoint, or one without parameters. Architectures that "
            "are not in the list are refused, with the reason.",
            highlight=False,
        )


def _note(known: Architecture) -> str:
    return lacking(known) or known.note
