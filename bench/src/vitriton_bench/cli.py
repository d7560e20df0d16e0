"""The command `vitriton bench`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from vitriton._console.failure import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CALLERS = "1,2,4,8,16,32"
_QUICK_CALLERS = "1,8"
_SECONDS, _QUICK_SECONDS = 9.0, 1.5
_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_REPORT, _SWEEP = "Report (without NAME)", "Sweep (with NAME)"


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("bench", cls=Command)(bench)


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="An export, to sweep over; without it, the whole report.")] = None,
    images: Annotated[Path, typer.Option(help="Folder of encoded images, sent as they are.")] = Path("examples/photos"),
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes: short, and with a small model.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write all that was measured to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write the pictures to this folder.")] = None,
    perf_analyzer: Annotated[Path | None, typer.Option(help="The program; else PATH, else downloaded.")] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="A running server: grpc://host:8001, http://host:8000, or both.", rich_help_panel=_SWEEP),
    ] = None,
    repository: Annotated[Path, typer.Option(help="Without --url: serve from here.", rich_help_panel=_SWEEP)] = Path(
        "model_repository"
    ),
    concurrency: Annotated[str, typer.Option(help="Callers.", rich_help_panel=_SWEEP)] = _CALLERS,
    batch_size: Annotated[str, typer.Option(help="Images in a request.", rich_help_panel=_SWEEP)] = "1",
    kinds: Annotated[
        str, typer.Option("--output", help="pooled, unpooled, or both with a comma.", rich_help_panel=_SWEEP)
    ] = "pooled",
    protocol: Annotated[
        str | None, typer.Option(help="grpc, http, or both; by default what --url has.", rich_help_panel=_SWEEP)
    ] = None,
    shared_memory: Annotated[str, typer.Option(help="none, system, or both.", rich_help_panel=_SWEEP)] = "none",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of each measurement.", rich_help_panel=_SWEEP)
    ] = _SECONDS,
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint to compare with; by default a ViT-B/16 of random weights.", rich_help_panel=_REPORT
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.5, help="Of the whole run: rounds end with it.", rich_help_panel=_REPORT)
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for exports.", rich_help_panel=_REPORT)] = Path("out/bench"),
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take the exports that --work has.", rich_help_panel=_REPORT)
    ] = False,
    accelerator: Annotated[
        str | None, typer.Option(help="Of the exports, as in `vitriton export`.", rich_help_panel=_REPORT)
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option("--from", help="Measure nothing: tables, page and pictures of an earlier --json."),
    ] = None,
    payload: Annotated[
        Path | None,
        typer.Option("--write-payload", help="Only write the images to this file, as perf_analyzer's --input-data."),
    ] = None,
) -> None:
    """Measure an export under load (NAME), or everything beside the alternatives (no NAME), with perf_analyzer."""
    from rich.console import Console
    from vitriton._console.signals import Signals
    from vitriton.cli import fail

    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        if again is not None:
            _check_outputs({"--markdown": markdown, "--plots": plots})
            document = _read(again)
        elif payload is not None:
            _write_payload(name, images, payload)
            return
        else:
            _check_options(context, name)
            _check_outputs({"--json": output, "--markdown": markdown, "--plots": plots})
            _check_images(images)
            with Signals():  # SIGTERM and SIGHUP end it as Ctrl-C does: in order, with what was measured
                if name is None:
                    settings = {"model": model, "images": images, "work": work, "reuse": reuse}
                    settings["accelerator"] = accelerator
                    document = _report(settings, quick, minutes, perf_analyzer, output, progress.print)
                else:
                    callers = _QUICK_CALLERS if quick and concurrency == _CALLERS else concurrency
                    length = _QUICK_SECONDS if quick and seconds == _SECONDS else seconds
                    lists = (kinds, protocol, batch_size, callers, shared_memory)
                    where = {"name": name, "repository": repository, "images": images, "perf_analyzer": perf_analyzer}
                    document = _sweep(where, url or [], lists, length, output, progress.print)
        _show(document, markdown, plots)
        if document.get("interrupted") and again is None:
            raise typer.Exit(_INTERRUPTED)
    except OSError as exc:
        fail(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))


def _command() -> str:
    return " ".join(["vitriton", *sys.argv[1:]])


def _report(
    settings: dict[str, Any],
    quick: bool,
    minutes: float | None,
    perf_analyzer: Path | None,
    output: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    from vitriton_bench._errors import BenchError
    from vitriton_bench.report.plan import Plan
    from vitriton_bench.report.plan import quick as quick_plan

    _quiet()
    try:
        from vitriton_bench.report.run import Report
    except ImportError as exc:
        raise BenchError(f"the report needs {exc.name}; `pip install 'vitriton-bench[report]'`") from exc
    if minutes is not None:
        settings = {**settings, "budget_s": minutes * 60}
    plan = (
        quick_plan(perf_analyzer=perf_analyzer, **settings) if quick else Plan(perf_analyzer=perf_analyzer, **settings)
    )
    return Report(plan, output, _command(), say).run()


def _quiet() -> None:
    """The bars and the advice of transformers would stand between the lines of progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _sweep(
    where: dict[str, Any],
    urls: Sequence[str],
    lists: tuple[str, str | None, str, str, str],
    seconds: float,
    output: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    from vitriton._names import Kind

    from vitriton_bench._load.point import Protocol, SharedMemory, grid
    from vitriton_bench._sweep import sweep as sweeps

    addresses = _addresses(urls)
    kinds, protocols, batches, callers, shared = lists
    points = grid(
        _choices(kinds, Kind, "--output"),
        _choices(protocols or ",".join(addresses) or "grpc", Protocol, "--protocol"),
        _numbers(batches, "--batch-size"),
        _numbers(callers, "--concurrency"),
        _choices(shared, SharedMemory, "--shared-memory"),
    )
    missing = {point.protocol for point in points} - (set(addresses) or {"grpc", "http"})
    if missing:
        raise typer.BadParameter(f"no --url has the scheme {missing.pop()}://", param_hint="--protocol")
    return sweeps.run(
        sweeps.Sweep(addresses=addresses, points=points, seconds=seconds, **where), output, _command(), say
    )


def _addresses(urls: Sequence[str]) -> Any:
    from vitriton._wire.address import parse_address

    found: dict[str, str] = {}
    for text in urls:
        try:
            address = parse_address(text)
        except ValueError as exc:
            raise typer.BadParameter(str(exc), param_hint="--url") from exc
        if address.is_secure:
            raise typer.BadParameter(f"{text}: TLS is not measured; give grpc:// or http://", param_hint="--url")
        if address.scheme in found:
            raise typer.BadParameter(f"two addresses have the scheme {address.scheme}", param_hint="--url")
        found[address.scheme] = address.target
    return found


def _choices(text: str, known: Any, option: str) -> Any:
    given = [part.strip() for part in text.split(",")]
    for part in given:
        if part not in get_args(known):
            raise typer.BadParameter(f"{part!r} is not one of {', '.join(get_args(known))}", param_hint=option)
    return given


def _numbers(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of numbers above 0, such as 1,8,32", param_hint=option)
    return [int(part) for part in parts]


def _check_options(context: typer.Context, name: str | None) -> None:
    """Refuses options of the other mode: without its NAME a sweep would be a report, which takes twenty minutes."""
    other = _SWEEP if name is None else _REPORT
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        is_given = source is not None and source.name == "COMMANDLINE"
        if getattr(option, "rich_help_panel", None) == other and is_given:
            does = "name an export to sweep over" if name is None else "leave NAME out for the report"
            raise typer.BadParameter(f"belongs to the {other[0].lower()}{other[1:]}; {does}", param_hint=option.opts[0])


def _check_outputs(targets: Mapping[str, Path | None]) -> None:
    """Finds out what cannot be written before anything is measured."""
    import tempfile

    for option, path in targets.items():
        if path is None:
            continue
        is_folder = option == "--plots"
        if path.exists() and path.is_dir() != is_folder:
            found, wanted = ("a file", "folder") if is_folder else ("a folder", "file")
            raise typer.BadParameter(f"{path} is {found}; name a {wanted}", param_hint=option)
        folder = path if is_folder else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as exc:
            raise typer.BadParameter(f"{folder} cannot be written to: {exc.strerror}", param_hint=option) from exc


def _check_images(images: Path) -> list[Path]:
    """The files, once each has been decoded: an image that cannot be would be an error in the middle of a run."""
    from PIL import Image, UnidentifiedImageError

    from vitriton_bench._errors import BenchError
    from vitriton_bench._payload import SUFFIXES, find_images, is_image

    files = find_images(images)
    if not files:
        raise BenchError(
            f"{images} has no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files; name a folder of photos with --images"
        )
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
        except Exception as exc:  # decoders raise what they like
            reason = "is no image" if isinstance(exc, UnidentifiedImageError) else f"cannot be decoded: {exc}"
            raise BenchError(f"{file} {reason}; take it out of the folder, or name another with --images") from exc
        if not is_image(file.read_bytes()):
            raise BenchError(f"{file} is no JPEG, PNG or WebP, whatever its name says; take it out of the folder")
    return files


def _write_payload(name: str | None, images: Path, target: Path) -> None:
    from vitriton_bench._payload import write_payload

    if name is not None:
        raise typer.BadParameter("measures nothing, so it takes no NAME", param_hint="--write-payload")
    _check_outputs({"--write-payload": target})
    files = _check_images(images)
    write_payload(files, target)
    print(f"{target}: {len(files)} images")


def _read(path: Path) -> dict[str, Any]:
    from vitriton_bench._document import FORMAT
    from vitriton_bench._errors import BenchError

    try:
        document = json.loads(path.read_text())
    except ValueError as exc:
        raise BenchError(f"{path} is not a file that --json wrote: {exc}") from exc
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise BenchError(f"{path} is not a file that --json wrote: its format is {found}, and this reads {FORMAT}")
    return dict(document)


def _show(document: dict[str, Any], markdown: Path | None, plots: Path | None) -> None:
    from vitriton_bench._document import write_text
    from vitriton_bench._tables.terminal import show
    from vitriton_bench.report.pages.markdown import page

    show(document)
    pictures: dict[str, str] = {}
    if plots is not None:
        from vitriton_bench.report.pages.plots import TITLES, draw

        base = markdown.parent if markdown is not None else plots
        pictures = {TITLES[path.name]: os.path.relpath(path, base) for path in draw(document, plots)}
    if markdown is not None:
        write_text(page(document, pictures), markdown)
