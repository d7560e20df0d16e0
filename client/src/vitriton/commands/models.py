"""The command `vitriton models`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitriton._console.completion import served_names
from vitriton._console.failure import Command
from vitriton._console.options import flatten
from vitriton._console.server import DEFAULT_ADDRESS, SERVER, URL, Access, ServerOptions
from vitriton._console.tables import Column, show
from vitriton._errors import InvalidOption
from vitriton._repository.names import ENSEMBLES

if TYPE_CHECKING:
    from vitriton._served.catalog import Catalog
    from vitriton._served.model import ModelInfo, ModelOutput
    from vitriton._served.texts import TextRules

_SHORT_FINGERPRINT = 12  # characters; enough to distinguish the models of a server
_TITLES = "MODEL OUTPUT STATE SHAPE TYPE PRECISION POOLING L2 BATCH FINGERPRINT SOURCE"
_SHOWN = "Output"
_EXAMPLES = """
vitriton models
vitriton models --url https://triton.example.com --token-env TOKEN --json
"""


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("models", cls=Command, epilog=_EXAMPLES)(flatten(models))


def models(
    *,
    url: Annotated[str, URL] = DEFAULT_ADDRESS,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=served_names,
            help="The model to show; repeat the option for more. Required if the server does not list its models.",
            rich_help_panel=_SHOWN,
        ),
    ] = None,
    show_all: Annotated[
        bool,
        typer.Option("--all", help="Also list models that `vitriton export` did not make.", rich_help_panel=_SHOWN),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="The longest wait for the server's answer, in seconds.", rich_help_panel=SERVER
        ),
    ] = 10.0,
    access: Access,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_SHOWN)] = False,
) -> None:
    """List the models that a server serves: outputs, shapes, precision, pooling, fingerprint, prompts, readiness."""
    # Imported here so that `vitriton --help` does not wait for it.
    import json

    from vitriton._console.progress import step
    from vitriton._served.catalog import read_catalog

    if not timeout > 0:
        raise InvalidOption("timeout", f"is {timeout:g}; it must be a number of seconds above 0")
    with step(f"Asking {url}"), closing(ServerOptions(address=url, access=access).transport()) as transport:
        catalog = read_catalog(transport, timeout, model or ())
    if as_json:
        typer.echo(json.dumps(_document(catalog), indent=2))
    else:
        _show(catalog, show_all=show_all)


def _show(catalog: Catalog, *, show_all: bool) -> None:
    """Shows the table on standard output, and what is said about it on standard error."""
    from rich.console import Console

    typer.echo(f"{catalog.server.name} {catalog.server.version} at {catalog.address}", err=True)
    if catalog.models:
        console = Console()
        short = console.is_terminal  # whole for programs, and for --expect-fingerprint
        outputs = [(served, output) for served in catalog.models for output in served.outputs]
        rows = [[served.name, *_cells(served, output, short=short)] for served, output in outputs]
        show(console, [Column(title) for title in _TITLES.split()], rows)
    elif catalog.listed:
        typer.echo("The server has no model that `vitriton export` made.", err=True)
    if not catalog.listed:
        typer.echo("The server does not list its models; name one with --model.", err=True)
    for served in catalog.models:
        if served.texts is not None:
            typer.echo(f"{served.name}: {_texts(served.texts)}", err=True)
        if served.logit_scale is not None:
            typer.echo(f"{served.name}: images and texts in one space; {_logits(served)}", err=True)
    for output in (output for served in catalog.models for output in served.outputs if output.reason):
        typer.echo(f"{output.model}: {output.reason}", err=True)
    if show_all:
        for status in catalog.others:
            typer.echo(f"other: {status.name} {status.state} {' '.join(status.reason.split())}".rstrip())
    elif catalog.others:
        number = len(catalog.others)
        others = "1 model of another kind is" if number == 1 else f"{number} models of other kinds are"
        typer.echo(f"{others} not listed (--all lists them).", err=True)


def _texts(rules: TextRules) -> str:
    """How a model takes texts."""
    names = [f"{name} (default)" if name == rules.default_prompt else name for name in rules.prompts]
    prompts = f"; prompts: {', '.join(names)}" if names else ""
    return f"texts of up to {rules.max_length} tokens{prompts}"


def _logits(served: ModelInfo) -> str:
    """What turns the cosine of an image and a text into a logit."""
    bias = "" if served.logit_bias is None else f", logit_bias {served.logit_bias:g}"
    return f"logit_scale {served.logit_scale:g}{bias}"


def _cells(served: ModelInfo, output: ModelOutput, *, short: bool) -> list[str]:
    """The cells of a row, without the model's name; with `short`, the fingerprint is cut."""
    told = _told(served, output)
    fingerprint, l2_normalize, max_batch_size = told["fingerprint"], told["l2_normalize"], output.max_batch_size
    values = (
        "x".join(map(str, output.shape)) if output.shape is not None else None,
        output.datatype,
        told["precision"],
        told["pooling"],
        None if l2_normalize is None else "yes" if l2_normalize else "no",
        None if max_batch_size is None else str(max_batch_size),
        f"{fingerprint[:_SHORT_FINGERPRINT]}…" if fingerprint and short else fingerprint,
        told["source_model"],
    )
    return [output.kind, output.state, *("-" if value is None else value for value in values)]


def _document(catalog: Catalog) -> dict[str, Any]:
    """The catalog for programs; the keys are a stable interface."""
    return {
        "address": catalog.address,
        "server": {"name": catalog.server.name, "version": catalog.server.version},
        "listed": catalog.listed,
        "models": [_model_document(model) for model in catalog.models],
        "others": [
            {"name": status.name, "ready": status.ready, "state": status.state, "reason": status.reason}
            for status in catalog.others
        ],
    }


def _model_document(served: ModelInfo) -> dict[str, Any]:
    outputs = [{**asdict(output), "ready": output.ready, **_told(served, output)} for output in served.outputs]
    texts = None if served.texts is None else asdict(served.texts)
    return {
        "name": served.name,
        "ready": served.ready,
        "towers": served.towers,
        "texts": texts,
        "logit_scale": served.logit_scale,
        "logit_bias": served.logit_bias,
        "outputs": outputs,
    }


def _told(served: ModelInfo, output: ModelOutput) -> dict[str, Any]:
    """The export's details of an output; all unknown if the model is not loaded."""
    loaded, pooled = output.ready, output.ready and ENSEMBLES[output.kind].pooled
    return {
        "source_model": served.source if loaded else None,
        "revision": served.revision if loaded else None,
        "precision": served.precision if loaded else None,
        "pooling": served.pooling if pooled else None,
        "l2_normalize": served.l2_normalize if pooled else None,
        "fingerprint": served.fingerprint if loaded else None,
    }
