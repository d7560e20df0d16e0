"""The command `vitriton bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from vitriton._console.failure import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitriton_bench._load.point import Point, Protocol
    from vitriton_bench._sweep.sweep import Sweep

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def register(app: typer.Typer) -> None:
    """Adds the command to the application `vitriton`."""
    app.command("bench", cls=Command)(bench)


def bench(
    name: Annotated[str | None, typer.Argument(help="The export to measure.")] = None,
    url: Annotated[
        list[str] | None, typer.Option(help="A running server: grpc://host:8001, http://host:8000, or both.")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Without --url: serve from here.")] = Path("model_repository"),
    images: Annotated[Path, typer.Option(help="Folder of encoded images, sent as they are.")] = Path("examples/photos"),
    concurrency: Annotated[str, typer.Option(help="Callers.")] = "1,2,4,8,16,32",
    batch_size: Annotated[str, typer.Option(help="Images in a request.")] = "1",
    kinds: Annotated[str, typer.Option("--output", help="pooled, unpooled, or both with a comma.")] = "pooled",
    protocol: Annotated[str | None, typer.Option(help="grpc, http, or both; by default what --url has.")] = None,
    shared_memory: Annotated[str, typer.Option(help="none, system, or both.")] = "none",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each measurement.")] = 9.0,
    output: Annotated[Path | None, typer.Option("--json", help="Write all that was measured to this file.")] = None,
    perf_analyzer: Annotated[Path | None, typer.Option(help="The program; else PATH, else downloaded.")] = None,
    payload: Annotated[
        Path | None,
        typer.Option("--write-payload", help="Only write the images to this file, as perf_analyzer's --input-data."),
    ] = None,
) -> None:
    """Measure an export under load, with perf_analyzer."""
    from vitriton_bench._console import one_line

    with one_line():
        if payload is not None:
            _write_payload(name, images, payload)
            return
        if name is None:
            raise typer.BadParameter("name the export to measure", param_hint="NAME")
        from vitriton_bench._sweep.sweep import Sweep

        addresses = _addresses(url or [])
        lists = (kinds, protocol or ",".join(addresses) or "grpc", batch_size, concurrency, shared_memory)
        where: dict[str, Any] = {"repository": repository, "images": images, "perf_analyzer": perf_analyzer}
        points = _points(*lists, addresses=addresses)
        _measure(Sweep(name=name, addresses=addresses, points=points, seconds=seconds, **where), output)


def _measure(sweep: Sweep, output: Path | None) -> None:
    from vitriton._console.signals import Signals

    from vitriton_bench import _photos
    from vitriton_bench._console import check_file, progress
    from vitriton_bench._sweep.sweep import run
    from vitriton_bench._tables.tables import sweep_tables
    from vitriton_bench._tables.terminal import show

    check_file("--json", output)
    _photos.check(sweep.images)
    with Signals():  # SIGTERM and SIGHUP end it as Ctrl-C does: in order, with what was measured
        document = run(sweep, output, " ".join(["vitriton", *sys.argv[1:]]), progress())
    show(document, sweep_tables(document))
    if document.get("interrupted"):
        raise typer.Exit(INTERRUPTED)


def _write_payload(name: str | None, images: Path, target: Path) -> None:
    from vitriton_bench import _photos
    from vitriton_bench._console import check_file
    from vitriton_bench._payload import write_payload

    if name is not None:
        raise typer.BadParameter("measures nothing, so it takes no NAME", param_hint="--write-payload")
    check_file("--write-payload", target)
    files = _photos.check(images)
    write_payload(files, target)
    print(f"{target}: {len(files)} images")


def _addresses(urls: Sequence[str]) -> dict[Protocol, str]:
    from vitriton._wire.address import parse_address

    found: dict[Any, str] = {}
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


def _points(
    kinds: str, protocols: str, batches: str, callers: str, shared: str, *, addresses: dict[Protocol, str]
) -> list[Point]:
    from vitriton._names import Kind

    from vitriton_bench._load.point import Protocol, SharedMemory, grid

    points = grid(
        _choices(kinds, Kind, "--output"),
        _choices(protocols, Protocol, "--protocol"),
        _numbers(batches, "--batch-size"),
        _numbers(callers, "--concurrency"),
        _choices(shared, SharedMemory, "--shared-memory"),
    )
    missing = {point.protocol for point in points} - (set(addresses) or {"grpc", "http"})
    if missing:
        raise typer.BadParameter(f"no --url has the scheme {missing.pop()}://", param_hint="--protocol")
    return points


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
