"""Runs perf_analyzer against one export, on a running server or on one that it starts."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vitriton._repository.names import Kind

from vitriton_bench import _machine
from vitriton_bench._document import FORMAT, Record
from vitriton_bench._errors import BenchError
from vitriton_bench._load.measure import measure
from vitriton_bench._load.perf_analyzer import long_enough
from vitriton_bench._load.point import Point
from vitriton_bench._load.target import Target
from vitriton_bench._perf_analyzer import program
from vitriton_bench._sweep.inputs import SweepInputs
from vitriton_bench._sweep.options import Sweep
from vitriton_bench._sweep.server import serve

_TOKENIZED = 4096  # texts whose tokens are counted

Say = Callable[[str], None]


def run(sweep: Sweep, inputs: SweepInputs, target: Path | None, command: str, say: Say) -> dict[str, Any]:
    """Measures point after point; returns the document, also after an interruption.

    Args:
        sweep: the loads to measure and their server.
        inputs: the images or texts to send.
        target: the file of the document, written after each point; None for none.
        command: the command line that the document names.
        say: the function that shows a line of progress.

    Raises:
        BenchError: no point can be measured.
        KeyboardInterrupt: the run was interrupted before the first point was over.
    """
    record = Record(_began(sweep, inputs, command), target, counts=("sweep",))
    document, points = record.document, sweep.points(inputs.tower)
    analyzer = program.get(sweep.perf_analyzer, say)
    document["versions"]["perf_analyzer"] = analyzer.version
    with record.kept(say), _target(sweep, inputs, say) as known:
        for number, point in enumerate(points, start=1):
            say(f"point {number} of {len(points)}")
            same = [row for row in document["sweep"] if row["kind"] == point.kind]
            try:
                seconds = long_enough(point, sweep.seconds, same)
                row = measure(analyzer, sweep.name, point, known, seconds)
                document["sweep"].append(row | _padding(document, known, sweep.name, inputs, point))
            except (
                BenchError
            ) as exc:  # only this point is lost: there is no shared memory with another host, for example
                document["failed"][str(point)] = str(exc)
                say(f"{point}: {exc}" if document["sweep"] else f"{point} failed")
            record.save()
    if not document["sweep"]:
        raise BenchError(next(iter(document["failed"].values())))
    return record.save()


def _began(sweep: Sweep, inputs: SweepInputs, command: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "command": command,
        "name": sweep.name,
        "machine": _machine.describe(),
        "versions": _machine.versions(),
        inputs.noun: inputs.describe(),
        "settings": {"seconds": sweep.seconds, "started": not sweep.addresses},
        "sweep": [],
        "failed": {},
    }


def _padding(
    document: dict[str, Any], target: Target, name: str, inputs: SweepInputs, point: Point
) -> dict[str, float]:
    """The padding of a load of texts, for its row; describes the tokens of the texts when they are first known."""
    if not inputs.texts:
        return {}
    tokens = target.source().tokens(name, inputs.texts[:_TOKENIZED], point.batch)
    document[inputs.noun] |= {
        "mean_tokens": statistics.mean(tokens.counts),
        "least_tokens": min(tokens.counts),
        "most_tokens": max(tokens.counts),
    }
    return {"padding": tokens.padding}


@contextlib.contextmanager
def _target(sweep: Sweep, inputs: SweepInputs, say: Say) -> Iterator[Target]:
    """The given server, or one that runs during the block."""
    kinds: list[Kind] = list(dict.fromkeys(point.kind for point in sweep.points(inputs.tower)))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vitriton-bench-")))
        payload = folder / "payload.json"
        inputs.write(payload)
        addresses = sweep.addresses
        if not addresses:
            say(f"starting a server on {sweep.repository}")
            server = stack.enter_context(serve(sweep.repository, sweep.name, kinds, folder / "served"))
            addresses = {"grpc": server.grpc_address, "http": server.http_address}
        yield Target.of(addresses, payload, sweep.name, kinds)
