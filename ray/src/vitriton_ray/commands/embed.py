"""The command `vitriton embed --engine ray`."""

from __future__ import annotations

import typer
from vitriton._console.failure import Command
from vitriton._console.options import flatten

from vitriton_ray._options import RayOptions

_HELP = (
    "Embed a bucket of images, tars of images, or a table of images or texts, on a Ray cluster.\n\n"
    "The output is a folder of Parquet files with the columns id, uri, sha256, embedding, error, error_code, width, "
    "height and fingerprint, and with --keep-column those of a table. Each row is in it exactly once; a row that "
    "cannot be embedded has an error in place of a vector. To continue after an interruption, give the same command "
    "again: files that are there are not made again. A run with another model or other inputs needs another "
    "output.\n\n"
    "Exit code: 0, all rows were embedded; 1, the command failed; 2, an option, a value or a path is wrong; 3, the run "
    "is complete, and some rows have an error; 130, interrupted."
)
_EXAMPLES = """
vitriton embed --engine ray s3://photos/ -o s3://vectors --url gpu1,gpu2
vitriton embed --engine ray 'shards/{000..999}.tar' -o out --url gpu1
vitriton embed --engine ray --from list.parquet -o out --ray-address head:6379
vitriton embed --engine ray --from list.parquet --keep-column label -o out
vitriton embed --engine ray --from list.csv -o out --repository s3://models
vitriton embed --engine ray --texts posts.parquet -o post-vectors --dry-run
vitriton embed --engine ray photos/ -o out --dry-run --price-per-hour 2.50
"""


def register(app: typer.Typer) -> None:
    """Adds the command to an application, for `vitriton embed` to call."""
    app.command("embed", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(embed))


def embed(options: RayOptions) -> None:
    """Embeds on a Ray cluster; the help text is _HELP."""
    # Imported here so that --help does not wait for it.
    from vitriton_ray._run import run

    options.check()
    raise typer.Exit(run(options))
