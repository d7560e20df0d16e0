"""`vitriton bench NAME`: perf_analyzer against one export, on a running server or on one that is started for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vitriton._names import Kind

from vitriton_bench import _document, _machine
from vitriton_bench._errors import BenchError
from vitriton_bench._load.point import Point, Protocol, Target, long_enough, measure
from vitriton_bench._payload import find_images, write_payload
from vitriton_bench._perf_analyzer import program as perf
from vitriton_bench.report.exports import exports as _exports


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is asked for.

    Attributes:
        name: of the export.
        addresses: protocol → `host:port` of a running server; empty to start one.
        repository: that it is started on.
        images: a folder.
        points: to measure, in order.
        seconds: of each.
        perf_analyzer: the program; None to look for it.
    """

    name: str
    addresses: dict[Protocol, str]
    repository: Path
    images: Path
    points: Sequence[Point]
    seconds: float
    perf_analyzer: Path | None


def run(sweep: Sweep, target: Path | None, command: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures point after point; returns the document, also after an interruption.

    Args:
        sweep: what to measure.
        target: file of the document, written after each point; None for none.
        command: that made it.
        say: shows a line of progress.

    Raises:
        BenchError: no point can be measured.
        KeyboardInterrupt: it was interrupted before the first point was over.
    """
    paths = find_images(sweep.images)
    document: dict[str, Any] = {
        "format": _document.FORMAT,
        "command": command,
        "name": sweep.name,
        "machine": _machine.describe(),
        "versions": _machine.versions(),
        "images": _exports.describe_images([path.read_bytes() for path in paths]),
        "settings": {"seconds": sweep.seconds, "started": not sweep.addresses},
        "sweep": [],
        "failed": {},
    }
    analyzer = perf.get(sweep.perf_analyzer, say)
    document["versions"]["perf_analyzer"] = analyzer.version
    try:
        with tempfile.TemporaryDirectory(prefix="vitriton-bench-") as folder:
            payload = Path(folder) / "payload.json"
            write_payload(paths, payload)
            with _target(sweep, payload, Path(folder), say) as known:
                for number, point in enumerate(sweep.points, start=1):
                    say(f"point {number} of {len(sweep.points)}")
                    same = [row for row in document["sweep"] if row["kind"] == point.kind]
                    seconds = long_enough(point, sweep.seconds, same)
                    _add(
                        document,
                        partial(measure, analyzer, sweep.name, point, known, seconds),
                        point,
                        say,
                    )
                    if target is not None and document["sweep"]:  # else what is there stays
                        _document.write(document, target)
    except KeyboardInterrupt:
        if not document["sweep"]:
            say("interrupted before anything was measured")
            raise
        document["interrupted"] = True
        say("interrupted: what was measured so far is kept")
    if not document["sweep"]:
        raise BenchError(next(iter(document["failed"].values())))
    if target is not None:
        _document.write(document, target)
    return document


def _add(
    document: dict[str, Any], measured: Callable[[], dict[str, Any]], point: Point, say: Callable[[str], None]
) -> None:
    """A point that fails costs itself only: a server on another host has no shared memory, for example."""
    try:
        document["sweep"].append(_document.significant(measured()))
    except BenchError as exc:
        document["failed"][str(point)] = str(exc)
        say(f"{point}: {exc}" if document["sweep"] else f"{point} failed")


@contextlib.contextmanager
def _target(sweep: Sweep, payload: Path, scratch: Path, say: Callable[[str], None]) -> Iterator[Target]:
    from vitriton_server import TritonServer, WatchPolicy

    from vitriton_bench.report.sides.triton import target, view

    kinds: list[Kind] = list(dict.fromkeys(point.kind for point in sweep.points))
    if sweep.addresses:
        yield target(sweep.addresses, payload, sweep.name, kinds)
        return
    say(f"starting a server on {sweep.repository}")
    shown = view(sweep.repository, sweep.name, kinds, scratch / "served")
    with TritonServer(shown, watch=WatchPolicy(canary_interval_s=0)) as server:
        addresses = {"grpc": server.grpc_address, "http": server.http_address}
        yield target(addresses, payload, sweep.name, kinds)
