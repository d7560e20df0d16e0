"""What perf_analyzer is told of a load, and what it says."""

from __future__ import annotations

import csv
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from vitriton_bench._errors import BenchError
from vitriton_bench._load.point import Point
from vitriton_bench._load.target import Target
from vitriton_bench._perf_analyzer.process import call, last_words
from vitriton_bench._perf_analyzer.program import PerfAnalyzer

_WINDOWS = 3  # fewer, and perf_analyzer never calls a measurement stable
_ANY_SPREAD = "999"  # per cent between windows: the report shows the spread itself, over rounds
_END_S = 120.0  # what perf_analyzer may take beyond its windows: start, requests in flight
_RETRIES = 6  # with windows of twice the length, where one had no answer in it
# What perf_analyzer says where a window had no answer in it, or no execution of one of the ensemble's steps.
_EMPTY_WINDOW = (
    "No valid requests recorded",
    "Failed to obtain stable measurement",
    "failed to find the requested model version",
)
_IN_FLIGHT_S = 2.0  # of requests at a rate: longer than any should take below the peak load
_MIN_THREADS = 4
_WAVES = 1.2  # answers of each caller in a window
TABLE, INTERVALS = "table.csv", "intervals.txt"
_COLUMNS = {"p50_ms": "p50 latency", "p90_ms": "p90 latency", "p99_ms": "p99 latency", "mean_ms": "Avg latency"}


def run(analyzer: PerfAnalyzer, model: str, point: Point, target: Target, seconds: float) -> dict[str, float]:
    """Images/s and latencies in ms of a model under a load.

    Args:
        analyzer: the program.
        model: the name of the model on the server.
        point: the load.
        target: the server.
        seconds: the length of the measurement; longer where no answer comes in a third of that.

    Raises:
        BenchError: perf_analyzer cannot measure it; the text has its last words.
    """
    window_s = seconds / _WINDOWS
    for _ in range(_RETRIES):
        with tempfile.TemporaryDirectory(prefix="vitriton-bench-") as folder:
            if point.rate is not None and point.arrivals == "poisson":
                (Path(folder) / INTERVALS).write_text(poisson_intervals(point.rate, _WINDOWS * window_s))
            limit_s = _WINDOWS * window_s + _END_S
            status, said = call(analyzer, arguments(model, point, target, window_s, Path(folder)), limit_s)
            table = Path(folder) / TABLE
            if status == 0 and table.is_file():
                return parse_table(table.read_text())
        if not any(sign in said for sign in _EMPTY_WINDOW):
            break
        window_s *= 2
    raise BenchError(f"perf_analyzer ended with status {status} on {model}: {last_words(said)}")


def long_enough(point: Point, seconds: float, rows: Sequence[Mapping[str, Any]]) -> float:
    """How long a measurement must be for each of its windows to have an answer to every caller.

    Args:
        point: what is measured next.
        seconds: the shortest measurement.
        rows: what was measured before of the same model; the last one tells how fast it is.
    """
    speed = rows[-1]["images_per_s"] if rows else 0.0
    return max(seconds, _WINDOWS * _WAVES * point.concurrency * point.batch / speed) if speed else seconds


def arguments(model: str, point: Point, target: Target, window_s: float, folder: Path) -> list[str]:
    """perf_analyzer's command line, without the program itself; `folder` has the files that go with it."""
    options = ["-m", model, "-u", target.addresses[point.protocol], "-i", point.protocol]
    options += ["--input-data", str(target.payload), "-b", str(point.batch)]
    if point.rate is None:
        options += ["--concurrency-range", f"{point.concurrency}:{point.concurrency}"]
    else:
        # a thread for each request in flight; at the end each waits for its next turn
        options += ["--max-threads", str(max(_MIN_THREADS, math.ceil(_IN_FLIGHT_S * point.rate)))]
        if point.arrivals == "constant":
            options += ["--request-rate-range", f"{point.rate:g}:{point.rate:g}"]
        else:
            options += ["--request-intervals", str(folder / INTERVALS)]
    if point.shared_memory == "system":
        size = max(target.output_bytes.get(point.kind, 0), 1)
        options += ["--shared-memory", "system", "--output-shared-memory-size", str(size)]
    options += ["--measurement-interval", str(max(round(window_s * 1000), 1)), "--max-trials", str(_WINDOWS)]
    return [*options, "--stability-percentage", _ANY_SPREAD, "--verbose-csv", "-f", str(folder / TABLE)]


def poisson_intervals(rate: float, seconds: float) -> str:
    """A file of intervals in µs, exponentially distributed, the same ones each time, with the mean that was asked for.

    perf_analyzer's own "poisson" takes few of its random numbers for a short run, so that the rate may be half of it.
    """
    random = Random(0)
    drawn = [random.expovariate(1.0) for _ in range(max(math.ceil(rate * seconds), 1))]
    scale = len(drawn) / sum(drawn) / rate * 1e6
    return "".join(f"{max(round(interval * scale), 1)}\n" for interval in drawn)


def parse_table(text: str) -> dict[str, float]:
    """perf_analyzer's CSV → images/s and latencies in ms.

    Raises:
        BenchError: the text is another table.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        row = rows[0]
        # "infer/sec" counts images, whatever the batch size
        return {"images_per_s": float(row["Inferences/Second"])} | {
            name: float(row[column]) / 1e3 for name, column in _COLUMNS.items()
        }
    except (IndexError, KeyError, TypeError, ValueError) as exc:
        raise BenchError(f"perf_analyzer wrote a table that is not understood: {text[:300]!r}") from exc
