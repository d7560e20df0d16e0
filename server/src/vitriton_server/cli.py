"""The command `vitriton serve`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from vitriton._console.failure import Command
from vitriton._console.options import flatten

from vitriton_server._admin import read_key
from vitriton_server._config import ServerConfig

_CONFIG = ServerConfig(http_port=8000, grpc_port=8001, metrics_port=8002)  # Triton's own


_EXAMPLES = """
vitriton serve
vitriton serve --repository models --watch --restart
vitriton serve --host 0.0.0.0 --grpc-port 9001 -- --log-verbose=1
"""


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("serve", cls=Command, epilog=_EXAMPLES)(flatten(serve))


def serve(
    *,
    config: ServerConfig = _CONFIG,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The file with the key that callers need for shared memory, trace settings and log settings.",
            rich_help_panel="Addresses",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Triton's full log.")] = False,
) -> None:
    """Serve a model repository with Triton, without Docker."""
    # Imported here to keep `vitriton --help` fast.
    from vitriton_server._console import Reporter
    from vitriton_server._process.ports import check_host
    from vitriton_server._rollout import repository
    from vitriton_server._server import TritonServer

    key = None if admin_key_file is None else read_key(admin_key_file)
    if repository.has_unfilled_export(config.repository):
        config = replace(config, skip_broken=True)
    repository.check(config.repository, may_be_empty=config.watch_repository, skip_broken=config.skip_broken)
    check_host(config.host)
    reporter = Reporter(verbose=verbose)
    server = TritonServer(**vars(replace(config, admin_key=key)), on_log_line=reporter.line)
    raise typer.Exit(reporter.run(server, config.repository))
