"""The command `vitriton models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vitriton._console import server as _server

if TYPE_CHECKING:
    from rich.table import Table

    from vitriton.commands.catalogue import Catalogue, Output

_SHORT_FINGERPRINT = 12  # characters; enough to tell those of one server apart
_TITLES = "MODEL OUTPUT STATE SHAPE TYPE PRECISION POOLING L2 BATCH FINGERPRINT SOURCE"
_WIDTH = 1000  # columns: a row stays one line, in a pipe too; a narrow terminal wraps it better than a table can


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("models")(models)


def models(
    url: _server.Url = _server.DEFAULT_ADDRESS,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this one; may be repeated. Needed where the server does not list what it has."),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Also models that `vitriton export` did not make.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for the server to answer.")] = 10.0,
    ca_file: _server.CaFile = None,
    cert_file: _server.CertFile = None,
    key_file: _server.KeyFile = None,
    token_env: _server.TokenEnv = None,
    header: _server.Header = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, for programs.")] = False,
) -> None:
    """List the models that a server serves: outputs, shapes, precision, pooling, fingerprint, readiness."""
    # Imported here so that `vitriton --help` does not wait for it.
    import json

    from vitriton._console.failure import fail, reason
    from vitriton._errors import VitritonError
    from vitriton.commands.catalogue import list_models, to_document

    if not timeout > 0:
        raise typer.BadParameter(f"--timeout is {timeout:g}; it must be a number of seconds above 0")
    server = _server.Server(
        address=url, ca_file=ca_file, cert_file=cert_file, key_file=key_file, token_env=token_env, header=header
    )
    transports = server.transports()
    try:
        if len(transports) > 1:
            raise typer.BadParameter(f"--url {url} is several servers; ask them one by one")
        catalogue = list_models(transports[0], timeout, model or ())
    except VitritonError as exc:
        fail(reason(exc))
    finally:
        for transport in transports:
            transport.close()
    if as_json:
        typer.echo(json.dumps(to_document(catalogue), indent=2))
    else:
        _show(catalogue, show_all=show_all)


def _show(catalogue: Catalogue, *, show_all: bool) -> None:
    from rich.console import Console

    typer.echo(f"{catalogue.server.name} {catalogue.server.version} at {catalogue.address}")
    if catalogue.models:
        Console(highlight=False, markup=False, width=_WIDTH).print(_table(catalogue))
    elif catalogue.listed:
        typer.echo("It has no model that `vitriton export` made.")
    if not catalogue.listed:
        typer.echo("It does not list what it has; ask for a model by name with --model.")
    for output in (output for served in catalogue.models for output in served.outputs if output.reason):
        typer.echo(f"{output.model}: {output.reason}")
    if show_all:
        for status in catalogue.others:
            typer.echo(f"other: {status.name} {status.state} {' '.join(status.reason.split())}".rstrip())
    elif catalogue.others:
        number = len(catalogue.others)
        others = "1 model of another kind is" if number == 1 else f"{number} models of other kinds are"
        typer.echo(f"{others} not listed (--all lists them).")


def _table(catalogue: Catalogue) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in _TITLES.split():
        table.add_column(title)
    for served in catalogue.models:
        for number, output in enumerate(served.outputs):
            table.add_row(served.name if number == 0 else "", *_cells(output))
    return table


def _cells(output: Output) -> list[str]:
    """Of a row, after the model's name."""
    values = (
        "x".join(map(str, output.shape)) if output.shape is not None else None,
        output.datatype,
        output.parameters.get("precision"),
        output.pooling,
        None if output.l2_normalize is None else "yes" if output.l2_normalize else "no",
        None if output.max_batch_size is None else str(output.max_batch_size),
        None if output.fingerprint is None else output.fingerprint[:_SHORT_FINGERPRINT],
        output.parameters.get("model"),
    )
    return [output.kind, output.state, *("-" if value is None else value for value in values)]
