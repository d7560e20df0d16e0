"""Runs perf_analyzer for a load, and reads its results."""

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

_WINDOWS = 3  # with fewer, perf_analyzer never calls a measurement stable
_ANY_SPREAD = "999"  # per cent between windows; the report shows its own spread, over rounds
_END_S = 120.0  # perf_analyzer's time beyond its windows: start, requests in flight
_RETRIES = 6  # with windows of twice the length, if one had no answer
# perf_analyzer's messages if a window had no answer, or no execution of a step of the ensemble.
_EMPTY_WINDOW = (
    "No valid requests recorded",
    "Failed to obtain stable measurement",
    "failed to find the requested model version",
)
_IN_FLIGHT_S = 2.0  # for requests at a rate: longer than any should take below the peak load
_MIN_THREADS = 4
_WAVES = 1.2  # answers of each caller in a window
TABLE, INTERVALS = "table.csv", "intervals.txt"
_COLUMNS = {"p50_ms": "p50 latency", "p90_ms": "p90 latency", "p99_ms": "p99 latency", "mean_ms": "Avg latency"}


def run(analyzer: PerfAnalyzer, model: str, point: Point, target: Target, seconds: float) -> dict[str, float]:
    """Measures inputs/s and latencies in ms of a model under a load.

    Args:
        analyzer: the perf_analyzer program.
        model: the name of the model on the server.
        point: the load.
        target: the server.
        seconds: the length of the measurement, longer if a third of it has no answer.

    Raises:
        BenchError: perf_analyzer failed; the text has the end of its output.
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
    """The length of a measurement in which every caller gets an answer in each window.

    Args:
        point: the load to measure next.
        seconds: the shortest length, in seconds.
        rows: the earlier measurements of the same model; the last one gives its speed.
    """
    speed = rows[-1]["inputs_per_s"] if rows else 0.0
    return max(seconds, _WINDOWS * _WAVES * point.concurrency * point.batch / speed) if speed else seconds


def arguments(model: str, point: Point, target: Target, window_s: float, folder: Path) -> list[str]:
    """perf_analyzer's arguments; `folder` holds the files that they name."""
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
    """The text of a file of intervals in µs, exponentially distributed, always the same, with the exact mean.

    perf_analyzer's own "poisson" draws few random numbers for a short run, so its rate may be half of that requested.
    """
    random = Random(0)
    drawn = [random.expovariate(1.0) for _ in range(max(math.ceil(rate * seconds), 1))]
    scale = len(drawn) / sum(drawn) / rate * 1e6
    return "".join(f"{max(round(interval * scale), 1)}\n" for interval in drawn)


def parse_table(text: str) -> dict[str, float]:
    """Reads inputs/s and latencies in ms from perf_analyzer's CSV.

    Raises:
        BenchError: the text is not such a table.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        row = rows[0]
        # "infer/sec" counts images or texts, whatever the batch size
        return {"inputs_per_s": float(row["Inferences/Second"])} | {
            name: float(row[column]) / 1e3 for name, column in _COLUMNS.items()
        }
    except (IndexError, KeyError, TypeError, ValueError) as exc:
        raise BenchError(f"perf_analyzer wrote a table that is not understood: {text[:300]!r}") from exc
