"""The command `vitriton bench`."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from vitriton_bench._measure import Plan, Result

_LIBRARIES = ("vitriton", "onnxruntime", "nvidia-pytriton", "numpy", "pillow")


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("bench")(bench)


def bench(
    images: Annotated[Path, typer.Option(help="Folder of encoded images, sent as they are.")],
    name: Annotated[str | None, typer.Argument(help="The model's name in the repository.")] = None,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    concurrency: Annotated[int, typer.Option(min=1, help="Callers, each with one image at a time.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Each measures both sides once.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement.")] = 10.0,
    output: Annotated[Path | None, typer.Option("--json", help="Write the measurement to this file.")] = None,
    payload: Annotated[
        Path | None,
        typer.Option("--write-payload", help="Only write the images to this file, as perf_analyzer's --input-data."),
    ] = None,
) -> None:
    """Compare a served model with bare ONNX Runtime on the same graph, taking turns in one run."""
    from vitriton.cli import fail

    from vitriton_bench._payload import SUFFIXES, find_images, write_payload

    files = find_images(images)
    if not files:
        fail(
            f"{images} has no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files; name a folder of photos with --images"
        )
    if payload is not None:
        if name is not None:
            raise typer.BadParameter("measures nothing, so it takes no NAME", param_hint="--write-payload")
        try:
            write_payload(files, payload)
        except OSError as exc:
            fail(f"{exc.filename}: {exc.strerror}")
        print(f"{payload}: {len(files)} images")
        return
    if name is None:
        raise typer.BadParameter("name an exported model, or give --write-payload", param_hint="NAME")

    from vitriton_server import ServerError

    from vitriton_bench._measure import Plan, as_json, run

    if not (repository / f"{name}_pooled_encoder" / "1" / "model.onnx").is_file():
        fail(f"{repository} has no exported model {name} with a pooled output; export it, or name another --repository")
    plan = Plan(
        repository=repository,
        name=name,
        images=[path.read_bytes() for path in files],
        concurrency=concurrency,
        rounds=rounds,
        seconds=seconds,
    )
    progress = Console(stderr=True)
    try:
        measured = run(plan, lambda text: progress.print(text, highlight=False))
    except ServerError as exc:
        fail(str(exc))
    if not measured.rounds:
        fail("interrupted before the first round was over")
    if output is not None:
        output.write_text(json.dumps({"machine": _machine(), **as_json(plan, measured)}, indent=2) + "\n")
    _show(plan, measured)


def _machine() -> dict[str, Any]:
    from vitriton_server import usable_cores

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"cpu": cpu, "cores": usable_cores(), "versions": {name: metadata.version(name) for name in _LIBRARIES}}


def _show(plan: Plan, result: Result) -> None:
    mean_kb = sum(len(image) for image in plan.images) / len(plan.images) / 1e3
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{plan.name}, {len(plan.images)} images of {mean_kb:.0f} kB, {plan.concurrency} callers")
    speeds = ", ".join(f"batch {batch}: {speed:.2f}" for batch, speed in result.by_batch.items())
    console.print(f"ONNX Runtime alone on ready pixels, images/s: {speeds}")
    table = Table()
    for column in ("round", f"ONNX Runtime, batch {result.batch}", "served", "p50", "p99", "ratio"):
        table.add_column(column, justify="right")
    for number, entry in enumerate(result.rounds, start=1):
        table.add_row(
            str(number),
            f"{entry.bare:.2f}",
            f"{entry.served:.2f}",
            f"{entry.p50_s * 1e3:.0f} ms",
            f"{entry.p99_s * 1e3:.0f} ms",
            f"{entry.ratio:.3f}",
        )
    console.print(table)
    console.print(f"served / ONNX Runtime alone, median of {len(result.rounds)} rounds: {result.ratio:.3f}")
