"""The output of the commands: steps while they run, and the results of an export or a verification."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from vitriton._console import progress

if TYPE_CHECKING:
    from vitriton_export._export import ExportResult
    from vitriton_export._parity.tally import Stage

_UNFOLDED = 10_000  # in columns


@contextlib.contextmanager
def step(console: Console, title: str) -> Iterator[None]:
    """Shows a step while it runs, and its time when it is done."""
    started = time.perf_counter()
    with progress.step(title, quiet=console.quiet):
        yield
    console.print(f"{title:<50} {time.perf_counter() - started:6.1f} s", highlight=False)


def console() -> Console:
    """Returns the console for results. In a pipe or a file, lines are not folded."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_UNFOLDED)


def show(result: ExportResult, console: Console) -> None:
    """Shows the models, the parity report and the fingerprint of an export."""
    from vitriton._repository.names import OUTPUT, PIXELS

    deployment = result.deployment
    models = Table(title=escape(str(result.repository)), title_justify="left")
    for column in ("model", "output", "size"):
        models.add_column(column, overflow="fold")
    dtype = {"uint8": "UINT8", "float32": "FP32"}[deployment.spec.dtype.name]
    rows = {deployment.preprocess_name: (PIXELS, deployment.pixels, dtype)}
    for kind, shape in deployment.shapes.items():
        row = (OUTPUT[kind], list(shape), deployment.output_type)
        rows[deployment.encoder_name(kind)] = rows[deployment.ensemble_name(kind)] = row
    for name, size in result.sizes.items():
        output, dims, dtype = rows[name]
        models.add_row(name, f"{output} {dtype} {[-1, *dims]}", _bytes(size))
    console.print(models)
    show_parity(console, result.parity, "parity")
    console.print(
        f"pooling      {deployment.pooling}{', L2-normalized' if deployment.l2_normalize else ''}\n"
        f"precision    {deployment.precision}\n"
        f"fingerprint  {deployment.fingerprint}",
        highlight=False,
    )


def show_parity(console: Console, stages: Sequence[Stage], title: str) -> None:
    """Shows the table of a parity report."""
    columns = ("stage", "images", "max abs error", "min cosine", "mean cosine", "gate", "")
    table = Table(*columns, title=escape(title), title_justify="left")
    for stage in stages:
        table.add_row(
            stage.stage,
            str(stage.images),
            f"{stage.max_abs_error:.2g}",
            f"{stage.min_cosine:.7f}",
            f"{stage.mean_cosine:.7f}",
            stage.gate,
            "passed" if stage.passed else "BROKEN",
        )
    console.print(table)


def warn(result: ExportResult, console: Console) -> None:
    """Shows the warnings of an export, and the contents of its repository that no server can load."""
    for warning in result.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    _warn_of_others(result.repository, console)


def _warn_of_others(repository: Path, console: Console) -> None:
    from vitriton_export._repository.install import without_weights

    for name in without_weights(repository):
        console.print(
            f"note: {repository} also holds {name}, which has no weights yet, and no server loads it as it is; export "
            f"that model too, or export to another --repository",
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


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
