"""The commands `vitriton export` and `vitriton remove`."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from vitriton._console.completion import exported_names
from vitriton._console.failure import Command
from vitriton._console.options import flatten
from vitriton._console.tables import print_line
from vitriton._repository.names import ensemble_name

from vitriton_export._errors import OptionError, importing
from vitriton_export._options import ExportOptions
from vitriton_export.commands import results

if TYPE_CHECKING:
    from vitriton_export._export import ExportResult
    from vitriton_export._towers.plan import ExportPlan

_EXAMPLES = """
vitriton export
vitriton export facebook/dinov2-small --repository models --precision int8
vitriton export ./my-checkpoint --name products-v3 --outputs pooled
vitriton export facebook/dinov2-small --skip-existing --json
vitriton export --list
"""
_REMOVE_EXAMPLES = "vitriton remove products-v3 --repository models"
_STEPS = 8  # of an export


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("export", cls=Command, epilog=_EXAMPLES)(flatten(export))


def register_remove(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("remove", cls=Command, epilog=_REMOVE_EXAMPLES)(remove)


def _list(asked: bool) -> None:
    if asked:
        from vitriton_export.commands import listing

        listing.show(results.console())
        raise typer.Exit


def export(
    options: ExportOptions,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Do nothing if the repository already holds this export: same model, same options, intact graphs.",
            rich_help_panel="Repository",
        ),
    ] = False,
    list_models: Annotated[
        bool, typer.Option("--list", is_eager=True, callback=_list, help="List the supported architectures and exit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, with the content of manifest.json.")
    ] = False,
) -> None:
    """Export a model to a Triton model repository, and prove that it computes what transformers computes."""
    from vitriton._console.signals import Signals

    progress = Console(stderr=True)
    started = time.perf_counter()
    if skip_existing and _is_there(options, progress):
        if as_json:
            typer.echo(json.dumps(results.document(options, None), indent=2))
        return
    _check(options)
    results.warn_of_path(options.folder, progress)
    if options.untold_name is not None:
        print_line(progress, f"note: {options.untold_name}")
    warned = _warn_of_precision(options, progress)
    with Signals():  # SIGTERM, too, ends it with a clean-up
        result, replaced, told = _export(options, progress)
    took = f"{time.perf_counter() - started:.1f} s"
    instead = f"; it replaces {replaced}" if replaced else ""
    print_line(progress, f"Exported {result.deployment.model_id} as {result.deployment.name} in {took}{instead}")
    if as_json:
        typer.echo(json.dumps(results.document(options, result), indent=2))
    else:
        results.show(result, results.console())
    results.warn(result, progress, {warned, *told})
    results.show_next_step(result, progress)


def remove(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=exported_names, help="The name under which the export is served."
        ),
    ],
    repository: Annotated[
        str, typer.Option(metavar="PATH", help="The Triton model repository that holds the export.")
    ] = "model_repository",
) -> None:
    """Remove an export from a model repository.

    A server that was started with --watch unloads the export and keeps serving the others.
    """
    from vitriton_export._repository.remove import remove as remove_export

    if not repository:
        raise OptionError("repository", "is empty; name a folder")
    for model in remove_export(Path(repository), name):
        typer.echo(f"removed {model}")


def _check(options: ExportOptions) -> None:
    """Checks what is on this machine, before torch is imported."""
    from vitriton_export._checkpoint.config import check_files
    from vitriton_export._checkpoint.source import find_folder
    from vitriton_export._repository import install

    source = find_folder(options.model, options.revision)
    install.check_writable(options.folder)
    install.tidy(options.folder)
    install.check_name(
        options.folder, options.deployed_name, max_batch_size=options.max_batch_size, precision=options.precision
    )
    if source is not None:
        check_files(source, options.pooling, options.towers)


def _tell_of_earlier(options: ExportOptions, plans: Sequence[ExportPlan], progress: Console) -> str:
    """Shows what the export replaces, and what it leaves; returns the former."""
    from vitriton_export._repository.existing import earlier

    there = earlier(options.folder, options.deployed_name)
    written = {kind for plan in plans for kind in plan.deployment.shapes}
    models: tuple[dict[str, list[str]], dict[str, list[str]]] = {}, {}  # replaced and left: version → its ensembles
    for kind, version in there.items():
        models[kind not in written].setdefault(version, []).append(ensemble_name(options.deployed_name, kind))
    replaced, left = models
    told = " and ".join(
        version if len(replaced) == 1 else f"{version} ({', '.join(names)})" for version, names in replaced.items()
    )
    if told:
        print_line(progress, f"Replaces {told}")
    for version, names in left.items():
        are = "is" if len(names) == 1 else "are"
        print_line(
            progress,
            f"note: {' and '.join(names)} {are} not replaced: clients still get {version}, with weights of its own; to "
            f"drop it, run `vitriton remove {options.deployed_name} --repository {options.folder}` before the export",
        )
    return told


def _warn_of_precision(options: ExportOptions, progress: Console) -> str | None:
    """Shows, before the work begins, what is wrong with a precision on this machine; returns that."""
    if options.precision == "fp32":
        return None
    with importing():
        from vitriton_export._graph import precision
    warning = precision.device_warning(options.precision, options.device, has_gpu=precision.has_gpu())
    if warning is not None:
        print_line(progress, f"warning: {warning}")
    return warning


def _export(options: ExportOptions, progress: Console) -> tuple[ExportResult, str, tuple[str, ...]]:
    """Exports the model. When it is sure to begin, shows what it replaces and the warnings; returns these, too."""
    numbers = itertools.count(1)

    def step(title: str) -> AbstractContextManager[None]:
        return results.step(progress, f"{next(numbers)}/{_STEPS} {title}")

    with step("Import torch and transformers"), importing():
        from vitriton_export._export import carry_out, prepare
    plans = prepare(options, step)
    replaced = _tell_of_earlier(options, plans, progress)
    warnings = tuple(dict.fromkeys(warning for plan in plans for warning in plan.warnings))
    for warning in warnings:
        print_line(progress, f"warning: {warning}")
    return carry_out(options, plans, step), replaced, warnings


def _is_there(options: ExportOptions, progress: Console) -> bool:
    from vitriton_export._repository.existing import difference

    reason = difference(options)
    text = f"{options.deployed_name} is in {options.folder} already" if reason is None else f"to be exported: {reason}"
    progress.print(text, highlight=False, markup=False, soft_wrap=True)
    return reason is None
