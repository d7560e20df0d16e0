"""All that a GPU machine can show, in one session of minutes.

    python bench/gpu_session.py --json out/gpu.json --markdown out/gpu.md
    python bench/gpu_session.py --device cpu --minutes 4 --markdown out/cpu.md    # the same stages, with a small model

It exports a model in float16, in float32, and with TensorRT where Triton has its native backend; it serves each,
verifies it through the server, and measures it from JPEGs, from ready pixels and as a graph alone. Between the first
export and the second, it measures the matrix products of the device and the decoding of the cores. The stages are in
the order of their importance, each has a limit, and one that fails is a row in the last table. The files are written
after each stage, so that a session that is cut short keeps what it has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from report.session.page import page, tables
from report.session.plan import Device, SessionPlan
from vitriton._console.failure import Command
from vitriton._console.signals import Signals, interruptible
from vitriton_bench import _document, _photos
from vitriton_bench._console import check_file, one_line, progress
from vitriton_bench._tables.terminal import show
from vitriton_bench.cli import INTERRUPTED

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def session(
    device: Annotated[
        Device | None, typer.Option(help="The device of the encoders; by default a GPU if torch finds one.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint; by default a ViT of random weights, B/16 on a GPU, Ti/16 on a CPU.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.5, help="Length of the whole session, which ends the stages.")] = 12.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each load.")] = 6.0,
    images: Annotated[Path, typer.Option(help="Folder of encoded images, sent as they are.")] = Path("examples/photos"),
    output: Annotated[Path | None, typer.Option("--json", help="Write all that was measured to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and exports, which are used again.")] = Path(
        "out/gpu"
    ),
    perf_analyzer: Annotated[Path | None, typer.Option(help="The program; else PATH, else downloaded.")] = None,
) -> None:
    """Export, verify and measure a model on this machine, stage by stage."""
    with interruptible(), one_line():
        for path in (output, markdown):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        check_file("--json", output)
        check_file("--markdown", markdown)
        _photos.check(images)
        # transformers' progress bars and advice would mix with the lines of progress.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

        def saved(document: dict[str, Any]) -> None:
            if markdown is not None:
                _document.write_text(page(document), markdown)

        with Signals():  # SIGTERM and SIGHUP end it as Ctrl-C does, and keep the measurements
            import torch
            from report.session.run import run

            plan = SessionPlan(
                device=device or ("gpu" if torch.cuda.is_available() else "cpu"),
                model=model,
                images=images,
                work=work,
                budget_s=minutes * 60,
                seconds=seconds,
                perf_analyzer=perf_analyzer,
            )
            document = run(plan, output, " ".join(["python bench/gpu_session.py", *sys.argv[1:]]), progress(), saved)
        show(document, tables(document))
        if document.get("interrupted"):
            raise typer.Exit(INTERRUPTED)
        if not document["loads"]:
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
