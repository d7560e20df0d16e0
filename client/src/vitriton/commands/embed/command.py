"""The command `vitriton embed`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import typer

from vitriton._console.failure import Command
from vitriton._console.options import flatten
from vitriton._console.plugged import plugged_command
from vitriton._errors import InvalidOption
from vitriton.commands.embed.options import EmbedOptions

_HELP = (
    "Embed images, frames of videos, or texts into a file.\n\n"
    "For a DIR, all images in it are embedded, sorted by name, and with --every also frames of its videos; --texts "
    "names a file of texts instead. To continue an interrupted run, give the same command again; the progress of an "
    "unfinished run is kept in OUTPUT.partial. The run continues if the names of the images are the same (their "
    "contents are not compared), or if the file of texts is the same. For a folder that grows, --append embeds what is "
    "new in it.\n\n"
    "Exit code: 0, all inputs were embedded; 1, the command failed; 2, an option, a value or a path is wrong, or the "
    "output exists, as after a run that is complete (--overwrite replaces it); "
    "3, the run is complete, and some inputs could not be embedded; 130, interrupted."
)


_EXAMPLES = """
vitriton embed photos/ -o photos.parquet
vitriton embed photos/ -o photos.parquet --append
vitriton embed a.jpg https://example.com/b.png -o vectors.npy --no-pool
vitriton embed film.mp4 photos/ --every 1s -o frames.parquet
find . -name '*.jpg' | vitriton embed --from - -o out.jsonl --url gpu1:8001
vitriton embed --from photos.csv --id-column id -o photos.npy
vitriton embed --texts posts.jsonl --text-column body -o posts.parquet
vitriton embed s3://bucket/photos/ -o photos.parquet
"""


_ENGINES = {"ray": "vitriton-ray"}  # other programs that embed, by the distribution


class _Embed(Command):
    """The command, or with --engine that of another program, whose options are its own."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Reads the command line, of which an engine gets all but its own name."""
        engine = _engine_in(args)
        if engine is None:
            return super().make_context(info_name, args, parent, **extra)
        at = next(index for index, given in enumerate(args) if given.startswith("--engine"))
        rest = args[:at] + args[at + (1 if "=" in args[at] else 2) :]
        other = plugged_command("vitriton.engines", engine, _ENGINES[engine])
        return other.make_context(f"{info_name} --engine {engine}", rest, parent, **extra)


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("embed", cls=_Embed, help=_HELP, epilog=_EXAMPLES)(flatten(embed))


def embed(options: EmbedOptions) -> None:
    """Embeds images or texts into a file; the help text is _HELP."""
    # Imported here so that `vitriton --help` does not wait for it.
    from vitriton.commands.embed.outputs import FORMATS
    from vitriton.commands.embed.run import run

    options.check_inputs()
    if options.output.suffix not in FORMATS:
        raise InvalidOption("output", f"{options.output} must end in one of {', '.join(FORMATS)}")
    options.check_append()
    options.check_model()
    raise typer.Exit(run(options))


def _engine_in(args: Sequence[str]) -> str | None:
    """The engine that a command line names, if it is one that is plugged in or could be."""
    given = [value for name, value in pairwise([*args, ""]) if name == "--engine"]
    given += [each.partition("=")[2] for each in args if each.startswith("--engine=")]
    return next((name for name in given if name in _ENGINES), None)
