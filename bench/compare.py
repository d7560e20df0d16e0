"""The reports: served models beside transformers, LitServe, ONNX Runtime and the machine's limits; and those for texts.

    python bench/compare.py --json out/bench.json          # 20 minutes; --quick: two, with a small model
    python bench/compare.py --race text --model out/all-MiniLM-L6-v2 --json out/texts.json    # 12 minutes
    python bench/compare.py --from out/bench.json --markdown out/bench.md --plots out/plots

The last measures nothing: it makes the page and pictures from results of the others, or of `vitriton bench --json`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from report.pages.markdown import page
from report.pages.tables import tables
from report.plan import Plan, TextPlan, quick_plan, quick_text_plan
from vitriton._console.failure import Command
from vitriton._console.signals import Signals, interruptible
from vitriton._repository.names import Tower
from vitriton_bench import _document, _photos, _texts
from vitriton_bench._console import check_file, check_folder, one_line, progress
from vitriton_bench._errors import BenchError, UnusableOption
from vitriton_bench._tables.terminal import show
from vitriton_bench.cli import INTERRUPTED

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def compare(
    race: Annotated[Tower, typer.Option(help="What to compare: models for images, or for texts.")] = "image",
    images: Annotated[Path, typer.Option(help="Folder of encoded images, sent as they are.")] = Path("examples/photos"),
    texts: Annotated[Path | None, typer.Option(help="File of texts, one on each line; else built-in ones.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes: short, and with a small model.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write all that was measured to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write the pictures to this folder.")] = None,
    again: Annotated[
        Path | None,
        typer.Option("--from", help="Measure nothing: tables, page and pictures of an earlier --json."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint to compare with; by default a ViT-B/16 of random weights.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.5, help="Length of the whole run, which ends the rounds.")
    ] = None,
    infinity: Annotated[Path, typer.Option(help="The program infinity_emb; `make bench-texts` installs it.")] = Path(
        ".venv-texts/bin/infinity_emb"
    ),
    work: Annotated[Path, typer.Option(help="Folder for exports.")] = Path("out/bench"),
    reuse: Annotated[bool, typer.Option("--reuse", help="Use the existing exports in --work.")] = False,
    perf_analyzer: Annotated[Path | None, typer.Option(help="The program; else PATH, else downloaded.")] = None,
) -> None:
    """Measure served models beside the alternatives and the machine's limits."""
    with interruptible(), one_line():
        for path in (output, markdown):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        check_file("--json", output)
        check_file("--markdown", markdown)
        check_folder("--plots", plots)
        if again is not None:
            document = _document.read(again)
        else:
            settings: dict[str, Any] = {"model": model, "work": work, "reuse": reuse}
            settings |= {} if minutes is None else {"budget_s": minutes * 60}
            if race == "text":
                if model is None or not Path(model).is_dir():
                    raise UnusableOption("--model", "must be the folder of a checkpoint of sentence-transformers")
                _texts.check(texts)
                settings |= {"texts": texts, "infinity": infinity}
                plan: Plan | TextPlan = quick_text_plan(**settings) if quick else TextPlan(**settings)
            else:
                _photos.check(images)
                settings |= {"images": images, "perf_analyzer": perf_analyzer}
                plan = quick_plan(**settings) if quick else Plan(**settings)
            document = _measure(plan, output)
        _show(document, markdown, plots)
        if again is None and document.get("interrupted"):
            raise typer.Exit(INTERRUPTED)


def _measure(plan: Plan | TextPlan, output: Path | None) -> dict[str, Any]:
    # transformers' progress bars and advice would mix with the lines of progress.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with Signals():  # SIGTERM and SIGHUP end it as Ctrl-C does, and keep the measurements
        try:
            from report import run as images_race
            from report.texts import run as texts_race
        except ImportError as exc:
            advice = "`pip install ./export -r bench/report/requirements.txt`"
            raise BenchError(f"the comparison needs {exc.name}; {advice}") from exc
        command = " ".join(["python bench/compare.py", *sys.argv[1:]])
        if isinstance(plan, TextPlan):
            return texts_race.run(plan, output, command, progress())
        return images_race.run(plan, output, command, progress())


def _show(document: dict[str, Any], markdown: Path | None, plots: Path | None) -> None:
    show(document, tables(document))
    pictures: dict[str, str] = {}
    if plots is not None:
        from report.pages.plots import TITLES, draw

        base = markdown.parent if markdown is not None else plots
        pictures = {TITLES[path.name]: os.path.relpath(path, base) for path in draw(document, plots)}
    if markdown is not None:
        _document.write_text(page(document, pictures), markdown)


if __name__ == "__main__":
    app()
