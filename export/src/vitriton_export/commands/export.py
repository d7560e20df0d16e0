"""The commands `vitriton export` and `vitriton remove`."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from vitriton._console.completion import exported_names
from vitriton._console.failure import Command
from vitriton._console.options import flatten

from vitriton_export._errors import OptionError, importing
from vitriton_export._options import ExportOptions
from vitriton_export.commands import results

_EXAMPLES = """
vitriton export
vitriton export facebook/dinov2-small --repository models --precision int8
vitriton export ./my-checkpoint --name products-v3 --outputs pooled
vitriton export --list
"""
_REMOVE_EXAMPLES = "vitriton remove products-v3 --repository models"


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
) -> None:
    """Export a vision model to a Triton model repository, and prove that it computes what transformers computes."""
    from vitriton._console.signals import Signals

    progress = Console(stderr=True)
    started = time.perf_counter()
    if skip_existing and _is_there(options, progress):
        return
    _check(options, progress)
    with _stoppable(progress), Signals():  # SIGTERM, too, ends it with a clean-up
        with results.step(progress, "Import torch and transformers"), importing():
            from vitriton_export._export import export_model
        result = export_model(options, lambda title: results.step(progress, title))
    progress.print(
        f"Exported {result.deployment.model_id} as {result.deployment.name} in {time.perf_counter() - started:.1f} s"
    )
    results.show(result, results.console())
    results.warn(result, progress)
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


def _check(options: ExportOptions, progress: Console) -> None:
    """Checks what is on this machine, and notes what will matter later, before torch is imported."""
    from vitriton_export._checkpoint.source import find_folder
    from vitriton_export._repository.install import check_writable

    find_folder(options.model, options.revision)
    check_writable(options.folder)
    results.warn_of_path(options.folder, progress)


@contextlib.contextmanager
def _stoppable(progress: Console) -> Iterator[None]:
    """Ends the command cleanly after a signal."""
    from vitriton._console.signals import Stopped, stopped_by

    try:
        yield
    except (Stopped, ImportError) as exc:
        stopped = stopped_by(exc)
        if stopped is None:
            raise
        with contextlib.suppress(OSError):  # the terminal may be gone
            progress.print(f"stopped by {signal.Signals(stopped.number).name}")
        raise typer.Exit(stopped.exit_code) from None


def _is_there(options: ExportOptions, progress: Console) -> bool:
    from vitriton_export._repository.existing import difference

    reason = difference(options)
    text = f"{options.deployed_name} is in {options.folder} already" if reason is None else f"to be exported: {reason}"
    progress.print(text, highlight=False, markup=False, soft_wrap=True)
    return reason is None
