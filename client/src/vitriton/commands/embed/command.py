"""The command `vitriton embed`."""

from __future__ import annotations

import typer

from vitriton._console.failure import Command
from vitriton._console.options import flatten
from vitriton._errors import InvalidOption
from vitriton.commands.embed.options import EmbedOptions

_HELP = (
    "Embed images into a file.\n\n"
    "For a DIR, all images in it are embedded, sorted by name. To continue an interrupted run, give the same command "
    "again; the progress of an unfinished run is kept in OUTPUT.partial. The run continues if the names of the images "
    "are the same; their contents are not compared.\n\n"
    "Exit code: 0, all images were embedded; 1, the command failed; 2, an option, a value or a path is wrong, or the "
    "output exists, as after a run that is complete (--overwrite replaces it); "
    "3, the run is complete, and some images could not be embedded; 130, interrupted."
)


_EXAMPLES = """
vitriton embed photos/ -o photos.parquet
vitriton embed a.jpg https://example.com/b.png -o vectors.npy --no-pool
find . -name '*.jpg' | vitriton embed --from - -o out.jsonl --url gpu1:8001
"""


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("embed", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(embed))


def embed(options: EmbedOptions) -> None:
    """Embeds images into a file; the help text is _HELP."""
    # Imported here so that `vitriton --help` does not wait for it.
    from vitriton.commands.embed.outputs import FORMATS
    from vitriton.commands.embed.run import run

    if not options.images and options.list_file is None:
        raise InvalidOption("", "name images, folders or URLs, or give a list with `list_file`")
    if options.output.suffix not in FORMATS:
        raise InvalidOption("output", f"{options.output} must end in {', '.join(FORMATS)}")
    if not options.timeout_s > 0:
        raise InvalidOption("timeout_s", f"is {options.timeout_s:g}; it must be a number of seconds above 0")
    options.server.check()
    raise typer.Exit(run(options))
