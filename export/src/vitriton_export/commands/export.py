"""The command `vitriton export`."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from vitriton._console.failure import Command
from vitriton.preprocessing import DEFAULT_FORMATS, DEFAULT_MAX_BYTES, DEFAULT_MAX_DECODE_BYTES, DEFAULT_MAX_PIXELS

from vitriton_export._errors import importing
from vitriton_export._options import (
    DEFAULT_MODEL,
    MAX_DECODE_BYTES,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_FRAMES,
    MAX_IMAGE_PIXELS,
    ExportOptions,
    JpegDecoding,
    Optimize,
    OutputDtype,
    Outputs,
    Pooling,
    Precision,
)
from vitriton_export._serving import (
    MAX_INSTANCES,
    MAX_QUEUE_DELAY_US,
    MAX_QUEUE_SIZE,
    MAX_QUEUE_TIMEOUT_MS,
    Accelerator,
    Device,
)

if TYPE_CHECKING:
    from vitriton_export._export import ExportResult
    from vitriton_export._parity.tally import Stage


_UNFOLDED = 10_000  # columns
_SERVING = "How Triton runs it"
_LIMITS = "What is refused"


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("export", cls=Command)(export)


def _not_empty(path: str) -> str:
    if not path:
        raise typer.BadParameter("it is empty; name a folder")
    return path


def register_remove(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("remove", cls=Command)(remove)


def _batch_sizes(text: str | None) -> tuple[int, ...] | None:
    """`1,8,32` → its numbers; `none` → no sizes; None, for whoever chooses, stays."""
    if text is None:
        return None
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is no list of batch sizes; write it as 1,8,32, or none") from exc


def _formats(text: str) -> tuple[str, ...]:
    """`jpeg,png` → Pillow's names."""
    return tuple(part.strip().upper() for part in text.split(",") if part.strip())


def _list(asked: bool) -> None:
    if asked:
        from vitriton_export.commands import listing

        listing.show(results_console())
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
    precision: Annotated[
        Precision, typer.Option(help="Of weights and arithmetic: fp16 for GPUs, int8 for CPUs (docs/precision.md).")
    ] = "fp32",
    output_dtype: Annotated[OutputDtype, typer.Option(help="Of the outputs, whatever the precision.")] = "fp32",
    optimize: Annotated[
        Optimize, typer.Option(help="none: the graph as torch exports it, for comparison.")
    ] = "default",
    min_cosine: Annotated[
        float | None,
        typer.Option(
            help="Least cosine similarity with the reference, on the worst image.", show_default="by precision"
        ),
    ] = None,
    allow_untrained_pooler: Annotated[
        bool,
        typer.Option("--allow-untrained-pooler", help="Ship a pooler of random weights (--pooling pooler)."),
    ] = False,
    device: Annotated[
        Device, typer.Option(rich_help_panel=_SERVING, help="Where encoders run; auto: a GPU if there is one.")
    ] = "auto",
    instances: Annotated[
        int, typer.Option(min=1, max=MAX_INSTANCES, rich_help_panel=_SERVING, help="Of each encoder, on each device.")
    ] = 1,
    max_queue_delay_us: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_QUEUE_DELAY_US,
            rich_help_panel=_SERVING,
            help="Microseconds that a request may wait for others to share its batch.",
        ),
    ] = 0,
    max_queue_size: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_QUEUE_SIZE,
            rich_help_panel=_SERVING,
            help="Requests that wait, in each step; 0: any number.",
        ),
    ] = 256,
    queue_timeout_ms: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_QUEUE_TIMEOUT_MS,
            rich_help_panel=_SERVING,
            help="Longest wait of a request, in each step; 0: any time.",
        ),
    ] = 60_000,
    accelerator: Annotated[
        Accelerator | None,
        typer.Option(rich_help_panel=_SERVING, help="Of Triton's native onnxruntime backend, in NVIDIA's image."),
    ] = None,
    tensorrt_cache: Annotated[
        str,
        typer.Option(
            metavar="PATH", rich_help_panel=_SERVING, help="Folder for TensorRT's engines, as the server sees it."
        ),
    ] = "tensorrt-cache",
    warmup: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            rich_help_panel=_SERVING,
            show_default="1; on a GPU powers of two up to --max-batch-size",
            help="Batch sizes that run before a model is ready, as 1,8,32; none: none.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", min=1, help="Side of the model's images.", show_default="the checkpoint's"),
    ] = None,
    image_processor_kwargs: Annotated[
        str, typer.Option(metavar="JSON", help="Settings of the image processor that replace the checkpoint's.")
    ] = "{}",
    jpeg_decoding: Annotated[
        JpegDecoding,
        typer.Option(help="scaled: large JPEGs at a part of their size; faster, not the reference's pixels."),
    ] = "exact",
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Do nothing where the repository holds this export already: same model, same options, graphs intact.",
        ),
    ] = False,
    max_image_bytes: Annotated[
        int, typer.Option(min=1, max=MAX_IMAGE_BYTES, rich_help_panel=_LIMITS, help="Of an encoded image.")
    ] = DEFAULT_MAX_BYTES,
    max_image_pixels: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_IMAGE_PIXELS, rich_help_panel=_LIMITS, help="Width × height, as the header has them."
        ),
    ] = DEFAULT_MAX_PIXELS,
    max_image_frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_IMAGE_FRAMES,
            rich_help_panel=_LIMITS,
            show_default="any number",
            help="Of an animation, or pages of a TIFF; the first is used.",
        ),
    ] = None,
    image_formats: Annotated[
        str,
        typer.Option(
            metavar="NAMES", rich_help_panel=_LIMITS, help="Those that are taken; clients send arrays as PPM."
        ),
    ] = ",".join(DEFAULT_FORMATS),
    max_decode_bytes: Annotated[
        int,
        typer.Option(
            min=1 << 20,
            max=MAX_DECODE_BYTES,
            rich_help_panel=_LIMITS,
            help="Memory in which images are made into pixels: of one, and of all at one time.",
        ),
    ] = DEFAULT_MAX_DECODE_BYTES,
    list_models: Annotated[
        bool, typer.Option("--list", is_eager=True, callback=_list, help="Show what can be exported, and exit.")
    ] = False,
) -> None:
    """Export a vision model to a Triton model repository, and prove that it computes what transformers computes."""
    from vitriton._console.signals import Signals, Stopped, stopped_by

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
            output_dtype=output_dtype,
            optimize=optimize,
            min_cosine=min_cosine,
            allow_untrained_pooler=allow_untrained_pooler,
            device=device,
            instances=instances,
            max_queue_delay_us=max_queue_delay_us,
            max_queue_size=max_queue_size,
            queue_timeout_ms=queue_timeout_ms,
            accelerator=accelerator,
            tensorrt_cache=tensorrt_cache,
            warmup=_batch_sizes(warmup),
            image_size=image_size,
            image_processor_kwargs=image_processor_kwargs,
            jpeg_decoding=jpeg_decoding,
            max_image_bytes=max_image_bytes,
            max_image_pixels=max_image_pixels,
            max_image_frames=max_image_frames,
            image_formats=_formats(image_formats),
            max_decode_bytes=max_decode_bytes,
        )
        if skip_existing and _is_there(options, progress):
            return
        with Signals():  # SIGTERM, too, ends it by way of what tidies up
            with show_step(progress, "Import torch and transformers"), importing():
                from vitriton_export._export import export_model
            result = export_model(options, lambda title: show_step(progress, title))
    except (Stopped, ImportError) as exc:
        stopped = stopped_by(exc)
        if stopped is None:
            raise
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            progress.print(f"stopped by {signal.Signals(stopped.number).name}")
        raise typer.Exit(stopped.exit_code) from None
    progress.print(
        f"Exported {result.deployment.model_id} as {result.deployment.name} in {time.perf_counter() - started:.1f} s"
    )
    _show(result, results_console())
    for warning in result.warnings:
        progress.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    _warn_of_others(result.repository, progress)
    _warn_of_path(result.repository, progress)


def remove(
    name: Annotated[str, typer.Argument(help="That the export is served by.")],
    repository: Annotated[
        str, typer.Option(metavar="PATH", callback=_not_empty, help="Triton model repository.")
    ] = "model_repository",
) -> None:
    """Remove an export from a model repository; a server started with --watch drops it, and goes on with the others."""
    from vitriton_export._repository.remove import remove as remove_export

    for model in remove_export(Path(repository), name):
        typer.echo(f"removed {model}")


def _is_there(options: ExportOptions, console: Console) -> bool:
    from vitriton_export._repository.existing import difference

    reason = difference(options)
    text = f"{options.deployed_name} is in {options.folder} already" if reason is None else f"to be exported: {reason}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    return reason is None


@contextlib.contextmanager
def show_step(console: Console, title: str) -> Iterator[None]:
    """Shows a step while it runs, and its time when it is done."""
    started = time.perf_counter()
    with console.status(title):
        yield
    console.print(f"{title:<50} {time.perf_counter() - started:6.1f} s", highlight=False)


def results_console() -> Console:
    """For the result. What reads a pipe or a file wants each line whole, and has no width to fold it to."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNFOLDED)


def _show(result: ExportResult, console: Console) -> None:
    from vitriton._names import OUTPUT, PIXELS

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
        f"pooling      {deployment.pooling}{', L2-normalised' if deployment.l2_normalize else ''}\n"
        f"precision    {deployment.precision}\n"
        f"fingerprint  {deployment.fingerprint}",
        highlight=False,
    )


def show_parity(console: Console, stages: Sequence[Stage], title: str) -> None:
    """The table of a parity report."""
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


def _warn_of_path(repository: Path, console: Console) -> None:
    from vitriton_export._repository.install import is_servable

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
