"""The command `vitriton search export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from vitriton._console.failure import Command, CommandFailed
from vitriton._console.options import flatten
from vitriton._console.paths import target_fault
from vitriton._errors import InvalidOption

from vitriton_search.commands.asking import SHOWN_GROUP, STORE, WHERE, read_condition
from vitriton_search.options import DEFAULT_STORE

_HELP = (
    "Write the vectors of a store to a file.\n\n"
    "The formats are those of `vitriton embed`: .parquet, .npy with a file .sources.jsonl beside it, and .jsonl. Rows "
    "without a vector are left out."
)
_EXAMPLES = """
vitriton search export -o photos.parquet
vitriton search export -o wide.npy --where "width > 1000"
"""


@dataclass(frozen=True, kw_only=True)
class SearchExportOptions:
    """The options of `vitriton search export`.

    Attributes:
        output: the file to write; its suffix (.parquet, .npy or .jsonl) selects the format.
        store: the store: a folder for LanceDB, or the URL of another store.
        where: the condition that rows must meet, such as "width > 1000 and source like '%/2025/%'". None: all rows.
        overwrite: replace an existing file.
        as_json: print a summary as JSON.
        quiet: print errors only.
    """

    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", rich_help_panel=SHOWN_GROUP)]
    store: Annotated[str, STORE] = DEFAULT_STORE
    where: Annotated[str | None, WHERE] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", rich_help_panel=SHOWN_GROUP)] = False
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=SHOWN_GROUP)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=SHOWN_GROUP)] = False


def register(group: typer.Typer) -> None:
    """Adds the command to the group `vitriton search`."""
    group.command("export", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(export))


def export(options: SearchExportOptions) -> None:
    """Writes the vectors of a store; the help text is _HELP."""
    if (fault := target_fault(options.output)) is not None:
        raise InvalidOption("output", fault)
    # Imported here so that `vitriton search --help` does not wait for it.
    import json

    from vitriton._console.progress import count, step

    from vitriton_search.answers.export import FORMATS, sources_path, write_vectors
    from vitriton_search.stores import open_store

    if options.output.suffix not in FORMATS:
        raise InvalidOption("output", f"{options.output} must end in one of {', '.join(FORMATS)}")
    sources = sources_path(options.output)
    for path in (options.output, sources):
        if path is not None and path.exists() and not options.overwrite:
            raise InvalidOption("output", f"{path} exists; give --overwrite to replace it, or another name")
    with open_store(options.store) as store, step(f"Writing {options.output}", quiet=options.quiet):
        where = read_condition(options.where, store)
        try:
            rows = write_vectors(store, options.output, where)
        except OSError as exc:
            raise CommandFailed(f"{options.output} cannot be written: {exc.strerror or exc}") from exc
        space = store.space
    if options.as_json:
        summary = {
            "output": str(options.output),
            "sources": None if sources is None else str(sources),
            "rows": rows,
            "model": space.model,
            "fingerprint": space.fingerprint,
            "shape": [space.dimensions],
        }
        typer.echo(json.dumps(summary))
    elif not options.quiet:
        typer.echo(f"{count(rows, 'vector')} of {space.model} in {options.output}")
