"""The command `vitriton verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from vitriton._console import server
from vitriton._console.failure import Command

from vitriton_export._errors import importing
from vitriton_export.commands.export import results_console, show_parity, show_step

if TYPE_CHECKING:
    from vitriton_export._verify.report import VerifyReport

EXIT_GATE_BROKEN = 3
_LISTED = 10  # unusable images that the report for people names

_HELP = (
    "Compare a deployed model with transformers, image by image.\n\n"
    "A model in a repository is run here by ONNX Runtime, from the repository's own files; with --url a running server "
    "is asked. The reference is the checkpoint that was exported, or the same one named with --reference.\n\n"
    "Exit code: 0, every stage is within its gate; 1, it could not be verified; 2, wrong options; 3, a gate is broken; "
    "130, interrupted. Images that cannot be used are listed and change no exit code."
)


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("verify", cls=Command, help=_HELP)(verify)


def verify(
    name: Annotated[
        str | None, typer.Argument(help="Name that it was exported under.", show_default="the only one there")
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Triton model repository to read.", show_default="model_repository"),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", "--address", help="Triton to ask: host:port (gRPC), or with grpc://, grpcs://, http://, https://."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The same as NAME.", show_default=False)] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|PATH", help="Hub id or folder of the checkpoint.", show_default="the one that was exported"
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id.", show_default="the one that was exported")] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Your own images.", show_default="built-in awkward ones")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Images of DIR at most, evenly spread.", show_default="all")
    ] = None,
    min_cosine: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Demand this of the outputs.", show_default="the model's own gates"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each request to the server.")] = 60.0,
    ca_file: server.CaFile = None,
    cert_file: server.CertFile = None,
    key_file: server.KeyFile = None,
    token_env: server.TokenEnv = None,
    header: server.Header = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report for programs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show the report only.")] = False,
) -> None:
    """See _HELP."""
    from vitriton._console.progress import progress

    if url is not None and repository is not None:
        raise typer.BadParameter("--url and --repository exclude each other: a server, or a repository")
    if None not in (name, model) and name != model:
        raise typer.BadParameter(f"NAME is {name} and --model is {model}; give one of them")
    if limit is not None and images is None:
        raise typer.BadParameter("--limit is for --images")
    if not timeout > 0:
        raise typer.BadParameter(f"--timeout is {timeout:g}; it must be a number of seconds above 0")
    connection = None
    if url is not None:
        connection = server.Server(
            address=url, ca_file=ca_file, cert_file=cert_file, key_file=key_file, token_env=token_env, header=header
        )
    console = Console(stderr=True, quiet=quiet)
    with show_step(console, "Import torch and transformers"), importing():
        from vitriton_export._verify.report import VerifyOptions, verify_model
    options = VerifyOptions(
        name=name or model,
        repository=repository or Path("model_repository"),
        server=connection,
        reference=reference,
        revision=revision,
        images=images,
        limit=limit,
        min_cosine=min_cosine,
        timeout_s=timeout,
    )
    report = verify_model(
        options,
        lambda title: show_step(console, title),
        lambda total: progress(total, 0, 0, quiet=quiet),
    )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        _show(report, results_console())
    if not report.passed:
        raise typer.Exit(EXIT_GATE_BROKEN)


def _show(report: VerifyReport, console: Console) -> None:
    show_parity(console, report.stages, report.subject)
    lines = [
        f"{stage.stage}: worst are "
        + ", ".join(
            f"{figures.image} (error {figures.max_abs_error:.2g}, cosine {figures.min_cosine:.7f})"
            for figures in stage.worst
        )
        for stage in report.stages
        if stage.worst
    ]
    lines += [f"{stage}: skipped, {why}" for stage, why in report.skipped.items()]
    lines += [f"not compared: {entry.image}: {entry.reason}" for entry in report.unusable[:_LISTED]]
    if len(report.unusable) > _LISTED:
        lines.append(f"not compared: {len(report.unusable) - _LISTED} more (--json lists all)")
    lines += [f"note: {note}" for note in report.notes]
    broken = [stage.stage for stage in report.stages if not stage.passed]
    verdict = f"broken: {', '.join(broken)}" if broken else "within its gates"
    lines.append(
        f"{report.compared} of {report.images} images compared with {report.reference}; fingerprint "
        f"{report.exported.fingerprint}\n{report.exported.name} is {verdict}"
    )
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
