"""The command `vitriton export`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitriton_export._errors import ExportError
from vitriton_export._options import DEFAULT_MODEL, ExportOptions, Outputs, Pooling, Precision

if TYPE_CHECKING:
    from vitriton_export._export import ExportResult


_UNFOLDED = 10_000  # columns


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("export")(export)


def _not_empty(path: str) -> str:
    if not path:
        raise typer.BadParameter("it is empty; name a folder")
    return path


def _list(asked: bool) -> None:
    if asked:
        from vitriton_export import _listing

        _listing.show(_console())
        raise typer.Exit


def export(
    model: Annotated[str, typer.Argument(help="Hugging Face hub id, or a checkpoint's folder.")] = DEFAULT_MODEL,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    repository: Annotated[
        str, typer.Option(metavar="PATH", callback=_not_empty, help="Triton model repository to write to.")
    ] = "model_repository",
    name: Annotated[str | None, typer.Option(help="Name to serve it by.", show_default="the id's last part")] = None,
    pooling: Annotated[
        Pooling, typer.Option(help="How the embedding is made; auto: a trained pooler, else cls, else mean.")
    ] = "auto",
    l2_normalize: Annotated[bool, typer.Option("--l2-normalize", help="Scale embeddings to length 1.")] = False,
    outputs: Annotated[Outputs, typer.Option(help="Which ensembles to write.")] = "both",
    max_batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Most images in one batch.")] = 32,
    precision: Annotated[Precision, typer.Option(help="Of weights and arithmetic; outputs are float32.")] = "fp32",
    allow_untrained_pooler: Annotated[
        bool,
        typer.Option("--allow-untrained-pooler", help="Ship a pooler of random weights (--pooling pooler)."),
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", min=1, help="Side of the model's images.", show_default="the checkpoint's"),
    ] = None,
    image_processor_kwargs: Annotated[
        str, typer.Option(metavar="JSON", help="Settings of the image processor that replace the checkpoint's.")
    ] = "{}",
    list_models: Annotated[
        bool, typer.Option("--list", is_eager=True, callback=_list, help="Show what can be exported, and exit.")
    ] = False,
) -> None:
    """Export a vision model to a Triton model repository, and prove that it computes what transformers computes."""
    from vitriton.cli import fail

    progress = Console(stderr=True)
    started = time.perf_counter()
    try:
        options = ExportOptions(
            model=model,
            revision=revision,
            repository=repository,
            name=name,
            pooling=pooling,
            l2_normalize=l2_normalize,
            outputs=outputs,
            max_batch_size=max_batch_size,
            precision=precision,
            allow_untrained_pooler=allow_untrained_pooler,
            image_size=image_size,
            image_processor_kwargs=image_processor_kwargs,
        )
        with _step(progress, "Import torch and transformers"):
            from vitriton_export._export import export_model
        result = export_model(options, lambda title: _step(progress, title))
    except ExportError as exc:
        fail(str(exc))
    progress.print(f"Exported {result.deployment.model_id} in {time.perf_counter() - started:.1f} s")
    _show(result, _console())
    _warn_of_others(result.repository, progress)
    _warn_of_path(result.repository, progress)


@contextlib.contextmanager
def _step(console: Console, title: str) -> Iterator[None]:
    """Shows a step while it runs, and its time when it is done."""
    started = time.perf_counter()
    with console.status(title):
        yield
    console.print(f"{title:<50} {time.perf_counter() - started:6.1f} s", highlight=False)


def _console() -> Console:
    """For the result. What reads a pipe or a file wants each line whole, and has no width to fold it to."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNFOLDED)


def _show(result: ExportResult, console: Console) -> None:
    from vitriton_export._deployment import TENSOR

    deployment = result.deployment
    models = Table(title=escape(str(result.repository)), title_justify="left")
    for column in ("model", "output", "size"):
        models.add_column(column, overflow="fold")
    dtype = {"uint8": "UINT8", "float32": "FP32"}[deployment.spec.dtype.name]
    rows = {deployment.preprocess_name: ("pixels", deployment.pixels, dtype)}
    for kind, shape in deployment.shapes.items():
        row = (TENSOR[kind], list(shape), "FP32")
        rows[deployment.encoder_name(kind)] = rows[deployment.ensemble_name(kind)] = row
    for name, size in result.sizes.items():
        output, dims, dtype = rows[name]
        models.add_row(name, f"{output} {dtype} {[-1, *dims]}", _bytes(size))
    parity = Table("stage", "images", "max abs error", "min cosine", "gate", title="parity", title_justify="left")
    for stage in result.parity:
        parity.add_row(
            stage.stage,
            str(stage.images),
            f"{stage.max_abs_error:.2g}",
            f"{stage.min_cosine:.7f}",
            stage.gate,
        )
    console.print(models)
    console.print(parity)
    console.print(
        f"pooling      {deployment.pooling}{', L2-normalised' if deployment.l2_normalize else ''}\n"
        f"precision    {deployment.precision}\n"
        f"fingerprint  {deployment.fingerprint}",
        highlight=False,
    )


def _warn_of_others(repository: Path, console: Console) -> None:
    from vitriton_export._repository import without_weights

    for name in without_weights(repository):
        console.print(
            f"note: {repository} also holds {name}, which has no weights yet, and no server loads it as it is; export "
            f"that model too, or export to another --repository",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _warn_of_path(repository: Path, console: Console) -> None:
    from vitriton_export._repository import is_servable

    if not is_servable(repository):
        console.print(
            f"note: {repository.resolve()} has a character that Triton's python backend cannot pass on to its "
            "processes (a space, a quote, a letter outside of ASCII); to serve the repository, move it or mount it "
            "elsewhere",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
