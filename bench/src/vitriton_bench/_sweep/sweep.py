"""Runs perf_analyzer against one export, on a running server or on one that it starts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vitriton._repository.names import Kind

from vitriton_bench import _machine, _photos
from vitriton_bench._document import FORMAT, Record
from vitriton_bench._errors import BenchError
from vitriton_bench._load.measure import measure
from vitriton_bench._load.perf_analyzer import long_enough
from vitriton_bench._load.target import Target
from vitriton_bench._payload import find_images, write_payload
from vitriton_bench._perf_analyzer import program
from vitriton_bench._sweep.options import Sweep
from vitriton_bench._sweep.server import serve

Say = Callable[[str], None]


def run(sweep: Sweep, target: Path | None, command: str, say: Say) -> dict[str, Any]:
    """Measures point after point; returns the document, also after an interruption.

    Args:
        sweep: the loads to measure and their server.
        target: the file of the document, written after each point; None for none.
        command: the command line that the document names.
        say: the function that shows a line of progress.

    Raises:
        BenchError: no point can be measured.
        KeyboardInterrupt: the run was interrupted before the first point was over.
    """
    record = Record(_began(sweep, command), target, counts=("sweep",))
    document = record.document
    analyzer = program.get(sweep.perf_analyzer, say)
    document["versions"]["perf_analyzer"] = analyzer.version
    with record.kept(say), _target(sweep, say) as known:
        for number, point in enumerate(sweep.points, start=1):
            say(f"point {number} of {len(sweep.points)}")
            same = [row for row in document["sweep"] if row["kind"] == point.kind]
            try:
                seconds = long_enough(point, sweep.seconds, same)
                document["sweep"].append(measure(analyzer, sweep.name, point, known, seconds))
            except (
                BenchError
            ) as exc:  # only this point is lost: there is no shared memory with another host, for example
                document["failed"][str(point)] = str(exc)
                say(f"{point}: {exc}" if document["sweep"] else f"{point} failed")
            record.save()
    if not document["sweep"]:
        raise BenchError(next(iter(document["failed"].values())))
    return record.save()


def _began(sweep: Sweep, command: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "command": command,
        "name": sweep.name,
        "machine": _machine.describe(),
        "versions": _machine.versions(),
        "images": _photos.describe([path.read_bytes() for path in find_images(sweep.images)]),
        "settings": {"seconds": sweep.seconds, "started": not sweep.addresses},
        "sweep": [],
        "failed": {},
    }


@contextlib.contextmanager
def _target(sweep: Sweep, say: Say) -> Iterator[Target]:
    """The given server, or one that runs during the block."""
    kinds: list[Kind] = list(dict.fromkeys(point.kind for point in sweep.points))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vitriton-bench-")))
        payload = folder / "payload.json"
        write_payload(find_images(sweep.images), payload)
        addresses = sweep.addresses
        if not addresses:
            say(f"starting a server on {sweep.repository}")
            server = stack.enter_context(serve(sweep.repository, sweep.name, kinds, folder / "served"))
            addresses = {"grpc": server.grpc_address, "http": server.http_address}
        yield Target.of(addresses, payload, sweep.name, kinds)
