"""The output of the commands: steps while they run, and the results of an export or a verification."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from vitriton._console import progress, tables
from vitriton._console.tables import Column, print_line
from vitriton._repository.names import Tower

from vitriton_export._options import ExportOptions

if TYPE_CHECKING:
    from vitriton_export._export import ExportResult
    from vitriton_export._parity.tally import Stage


@contextlib.contextmanager
def step(console: Console, title: str) -> Iterator[None]:
    """Shows a step while it runs, and its time when it is done."""
    started = time.perf_counter()
    with progress.step(title, quiet=console.quiet):
        yield
    took = f"{time.perf_counter() - started:.1f} s"
    line = f"{title:<50} {took:>8}" if console.is_terminal else f"{title}: {took}"
    console.print(line, highlight=False, soft_wrap=True)


def console() -> Console:
    """Returns the console for results."""
    return Console()


def show(result: ExportResult, console: Console) -> None:
    """Shows the models, the parity report and the fingerprint of an export."""
    from vitriton_export._repository.deployment import configs

    made = {name: config for tower in result.towers for name, config in configs(tower.deployment, 1).items()}
    models = [(name, _outputs(made[name]), _bytes(size)) for name, size in result.sizes.items()]
    columns = (Column("model"), Column("output"), Column("size", is_number=True))
    tables.show(console, columns, models, str(result.repository))
    for tower in result.towers:
        of = tower.deployment.step.tower
        show_parity(console, tower.parity, of, f"parity, {of}s")
    deployment = result.deployment
    facts = {
        "pooling": f"{deployment.pooling}{', L2-normalized' if deployment.l2_normalize else ''}",
        "precision": deployment.precision,
        "fingerprint": deployment.fingerprint,
        **{name: f"{value:g}" for name, value in deployment.logits.items()},
    }
    for name, fact in facts.items():
        print_line(console, f"{name:<11}  {fact}" if console.is_terminal else f"{name}\t{fact}")


def document(options: ExportOptions, result: ExportResult | None) -> dict[str, Any]:
    """Describes an export for programs; the keys are stable.

    Args:
        options: the options of the export.
        result: the result; None if the repository held the export already.
    """
    from vitriton._repository.names import KINDS, ensemble_name, model_names

    from vitriton_export._repository.existing import read_manifest

    name, repository = options.deployed_name, options.folder.resolve()
    manifest = read_manifest(repository, name) if result is None else result.manifest
    written = [kind for kind in KINDS if ensemble_name(name, kind) in manifest["outputs"]]
    folders = [repository / model for model in model_names(name, written)]
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
    return {
        "exported": result is not None,
        "name": name,
        "repository": str(repository),
        "models": [
            {"name": folder.name, "path": str(folder), "bytes": size}
            for folder, size in zip(folders, sizes, strict=True)
        ],
        "warnings": list(manifest["warnings"] if result is None else result.warnings),
        "notes": [] if result is None else list(result.notes),
        "manifest": manifest,
    }


def show_parity(console: Console, stages: Sequence[Stage], tower: Tower, title: str) -> None:
    """Shows the table of a tower's parity report."""
    numbers = [Column(name, is_number=True) for name in (f"{tower}s", "max abs error", "min cosine", "mean cosine")]
    columns = (Column("stage", wraps=True), *numbers, Column("gate", wraps=True), Column("result"))
    rows = [
        (
            stage.stage,
            str(stage.images),
            number(stage.max_abs_error),
            f"{stage.min_cosine:.7f}",
            f"{stage.mean_cosine:.7f}",
            stage.gate,
            "passed" if stage.passed else "BROKEN",
        )
        for stage in stages
    ]
    tables.show(console, columns, rows, title)


def number(value: float) -> str:
    """Returns two significant digits, or all digits before the point: gray levels are whole numbers."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def warn(result: ExportResult, console: Console, shown: Collection[str | None]) -> None:
    """Shows the warnings and notes of an export, and the contents of its repository that no server can load.

    Args:
        result: the result of the export.
        console: the console.
        shown: the warnings that were shown before the work began.
    """
    warnings = [each for each in result.warnings if each not in shown]
    lines = [*(f"warning: {each}" for each in warnings), *(f"note: {each}" for each in result.notes)]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _warn_of_others(result.repository, console)


def show_next_step(result: ExportResult, console: Console) -> None:
    """Shows the command that serves an export."""
    from vitriton_export._repository.install import is_servable

    if not is_servable(result.repository):
        return
    default = ExportOptions().folder.resolve()
    options = "" if result.repository.resolve() == default else f" --repository {shlex.quote(str(result.repository))}"
    print_line(console, f"Next: vitriton serve{options}")


def _warn_of_others(repository: Path, console: Console) -> None:
    from vitriton_export._repository.install import without_weights

    for name in without_weights(repository):
        console.print(
            f"note: {repository} also holds {name}, which has no weights yet (`vitriton serve` leaves it out; Triton "
            "itself cannot load it)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def warn_of_path(repository: Path, console: Console) -> None:
    """Shows a note on a repository that no server can load from where it is."""
    from vitriton_export._repository.install import is_servable

    if not is_servable(repository):
        console.print(
            f"note: {repository.resolve()} has a character that Triton's python backend cannot pass on to its "
            "processes (a space, a quote, a letter outside ASCII); to serve the repository, move it or mount it "
            "elsewhere",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _outputs(config: Any) -> str:
    """The first tensor that a model returns."""
    from tritonclient.grpc.model_config_pb2 import DataType

    output = config.output[0]
    return f"{output.name} {DataType.Name(output.data_type).removeprefix('TYPE_')} {[-1, *output.dims]}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
