"""The command `vitriton serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from vitriton._console.failure import Command


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("serve", cls=Command)(serve)


def serve(
    triton_arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- TRITON_OPTIONS]", help="Further options of tritonserver, after a `--`."),
    ] = None,
    repository: Annotated[Path, typer.Option(help="Folder of the models.")] = Path("model_repository"),
    host: Annotated[str, typer.Option(help="Address to bind; 0.0.0.0 for all of them.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="0 for a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0 for a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0 for a free one.")] = 8002,
    ready_timeout: Annotated[float, typer.Option(help="Seconds that loading may take.")] = 300.0,
    exit_timeout: Annotated[float, typer.Option(help="Seconds for the requests in flight when stopping.")] = 10.0,
    canary_interval: Annotated[
        float, typer.Option(help="Seconds after which a silent model is asked whether it lives; 0: never.")
    ] = 8.0,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Take exports that come, are replaced or go, meanwhile.")
    ] = False,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Close shared memory, trace and log settings to whoever lacks the key in this file."
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Start Triton again when it has died.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the whole log of Triton.")] = False,
) -> None:
    """Serve a model repository with Triton, without Docker."""
    # Imported here so that `vitriton --help` does not wait for it.
    from vitriton_server._admin import read_key
    from vitriton_server._config import WatchPolicy
    from vitriton_server._console import Reporter
    from vitriton_server._server import TritonServer

    reporter = Reporter(verbose=verbose)
    server = TritonServer(
        repository,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        ready_timeout_s=ready_timeout,
        exit_timeout_s=exit_timeout,
        watch_repository=watch,
        admin_key=None if admin_key_file is None else read_key(admin_key_file),
        watch=WatchPolicy(canary_interval_s=canary_interval, restart=restart),
        triton_arguments=triton_arguments or (),
        on_log_line=reporter.line,
    )
    raise typer.Exit(reporter.run(server, repository))
