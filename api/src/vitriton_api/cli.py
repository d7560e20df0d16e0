"""The command `vitriton api`."""

from __future__ import annotations

import typer
from vitriton._console.failure import Command
from vitriton._console.options import flatten

from vitriton_api._config import ApiOptions

_EXAMPLES = """
vitriton api --model photos
vitriton api --url a:8001,b:8001 --host 0.0.0.0 --api-keys-file keys
"""


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("api", cls=Command, epilog=_EXAMPLES)(flatten(api))


def api(options: ApiOptions) -> None:
    """Serve an OpenAI-style HTTP endpoint for embeddings."""
    # Imported here to keep `vitriton --help` fast.
    from vitriton_api._keys import Keys
    from vitriton_api._serve import run

    options.server.check()
    keys = None if options.api_keys_file is None else Keys(options.api_keys_file)
    raise typer.Exit(run(options, keys))
