"""The command `vitriton verify`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from vitriton._console.failure import Command
from vitriton._console.options import flatten
from vitriton._console.server import Access, ServerOptions

from vitriton_export._errors import OptionError, importing
from vitriton_export._verify.options import VerifyOptions
from vitriton_export.commands import results

if TYPE_CHECKING:
    from vitriton_export._verify.report import TowerReport, VerifyReport

EXIT_GATE_BROKEN = 3
_NOT_WITH_FILES = ("images", "texts", "limit", "reference", "revision", "min_cosine")
_LISTED = 10  # the unusable inputs in the printed report

_HELP = (
    "Compare a deployed model with transformers, input by input.\n\n"
    "Without --url, ONNX Runtime runs the model on this machine, from the files of the repository. With --url, a "
    "running server runs it. The reference is the checkpoint that was exported. Name it with --reference if its folder "
    "has moved, or if a server runs a model that was exported from a folder.\n\n"
    "Exit code: 0, all outputs are within their limits; 1, the model could not be verified; 2, an option, a value or a "
    "path is wrong; 3, an output is outside its limit; 130, interrupted. "
    "Images and texts that cannot be used are listed and do not change the exit code."
)


_EXAMPLES = """
vitriton verify dinov2-small --repository models
vitriton verify dinov2-small --repository models --files
vitriton verify dinov2-small --repository models --images photos/ --limit 100
vitriton verify products-v3 --url localhost:8001 --reference ./my-checkpoint
"""


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("verify", cls=Command, help=_HELP, epilog=_EXAMPLES)(flatten(verify))


def verify(
    *,
    options: VerifyOptions,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another way to give NAME.", rich_help_panel="Model")
    ] = None,
    access: Access,
    files: Annotated[
        bool,
        typer.Option(
            "--files",
            help="Only compare the files in the repository with the manifest, without the reference.",
            rich_help_panel="Model",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the report.")] = False,
) -> None:
    """Verifies a deployed model; `_HELP` is the command's help."""
    from vitriton._console.progress import progress, step

    from vitriton_export._verify.check import check

    _check(options, model, files=files)
    asked = replace(
        options,
        name=options.name or model,
        server=None if options.server is None else ServerOptions(address=str(options.server), access=access),
    )
    if files:
        _verify_files(asked, as_json=as_json)
        return
    with step("Find the model", quiet=quiet):
        check(asked)
    console = Console(stderr=True, quiet=quiet)
    with results.step(console, "Import torch and transformers"), importing():
        from vitriton_export._verify.report import verify_model
    report = verify_model(
        asked,
        lambda title: results.step(console, title),
        lambda total, noun: progress(total, 0, 0, noun=noun, quiet=quiet),
    )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        _show(report, results.console())
    if not report.passed:
        raise typer.Exit(EXIT_GATE_BROKEN)


def _verify_files(options: VerifyOptions, *, as_json: bool) -> None:
    from vitriton_export._verify.check import check_files, check_versions, read

    with read(options.folder, options.name) as towers:
        check_files(options.folder, towers)
        check_versions(options.folder, towers[0].name)
    if as_json:
        document = {"name": towers[0].name, "repository": str(options.folder), "fingerprint": towers[0].fingerprint}
        typer.echo(json.dumps(document | {"passed": True}, indent=2))
    else:
        typer.echo(f"the files of {towers[0].name} in {options.folder} are those that were exported")


def _check(options: VerifyOptions, model: str | None, *, files: bool) -> None:
    if files and options.server is not None:
        raise OptionError("files", "reads a repository, and `server` is given; leave out one of them")
    for option in _NOT_WITH_FILES if files else ():
        if getattr(options, option) is not None:
            raise OptionError(option, "is given, and `files` compares the files alone; leave out one of them")
    if options.server is not None and options.repository is not None:
        raise OptionError("", "give either `server` or `repository`, not both")
    if None not in (options.name, model) and options.name != model:
        raise OptionError("", f"`name` is {options.name} and `model` is {model}; give one of them")
    if options.limit is not None and options.images is None and options.texts is None:
        raise OptionError("limit", "applies only to `images` and `texts`, which are not given")


def _show(report: VerifyReport, console: Console) -> None:
    for tower in report.towers:
        of = tower.exported.tower
        title = report.subject if len(report.towers) == 1 else f"{report.subject}: {of} tower"
        results.show_parity(console, tower.stages, of, title)
    lines = [line for tower in report.towers for line in _lines(tower)]
    lines += [f"note: {note}" for note in report.notes]
    broken = [stage.stage for stage in report.stages if not stage.passed]
    verdict = f"broken: {', '.join(broken)}" if broken else "within its gates"
    counts = (f"{tower.compared} of {tower.images} {tower.exported.tower}s" for tower in report.towers)
    lines.append(
        f"{' and '.join(counts)} compared with {report.reference}; fingerprint {report.exported.fingerprint}\n"
        f"{report.exported.name} is {verdict}"
    )
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _lines(tower: TowerReport) -> list[str]:
    lines = [
        f"{stage.stage}: worst {tower.exported.tower}s: "
        + ", ".join(
            f"{figures.image} (error {results.number(figures.max_abs_error)}, cosine {figures.min_cosine:.7f})"
            for figures in stage.worst
        )
        for stage in tower.stages
        if stage.worst
    ]
    lines += [f"{stage}: skipped, {why}" for stage, why in tower.skipped.items()]
    lines += [f"not compared: {entry.image}: {entry.reason}" for entry in tower.unusable[:_LISTED]]
    if len(tower.unusable) > _LISTED:
        lines.append(f"not compared: {len(tower.unusable) - _LISTED} more (--json lists all)")
    return lines
