"""The command `vitriton search index`."""

from __future__ import annotations

import typer
from vitriton._console.failure import Command
from vitriton._console.options import flatten

from vitriton_search.index.options import IndexOptions

_HELP = (
    "Bring a store of vectors up to date with images and videos.\n\n"
    "Images that are new, or whose content has changed, are embedded, and with --every the frames of videos. The "
    "vectors of files that have only moved are used again, and so are those in .parquet files of `vitriton embed`. A "
    "file with the same size and time as before counts as unchanged, and is not read; if all files are unchanged, no "
    "server is asked. Images are written in batches: to continue after an interruption, repeat the command.\n\n"
    "Exit code: 0, the store has a vector for each image; 1, the command failed; 2, an option, a value or a path is "
    "wrong; 3, the store is up to date, and some images could not be embedded; 130, interrupted."
)
_EXAMPLES = """
vitriton search index photos/ --model photos
vitriton search index photos/ --prune --store ./photos.lance
vitriton search index films/ photos/ --every 1s
vitriton search index vectors.parquet
find . -name '*.jpg' | vitriton search index --from - --model photos
"""


def register(group: typer.Typer) -> None:
    """Adds the command to the group `search`."""
    group.command("index", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(index))


def index(options: IndexOptions) -> None:
    """Brings a store up to date with images; the help text is _HELP."""
    # Imported here so that `vitriton search --help` does not wait for it.
    from vitriton_search.index.run import run

    options.served.server.check()
    raise typer.Exit(run(options))
