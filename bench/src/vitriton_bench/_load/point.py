"""One point of a sweep: what perf_analyzer is told, and what it says."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from vitriton._names import Kind

from vitriton_bench._errors import BenchError
from vitriton_bench._perf_analyzer.program import PerfAnalyzer
from vitriton_bench._statistics.statistics import Source, Split, bottleneck, split
from vitriton_bench.report import names

Protocol = Literal["grpc", "http"]
SharedMemory = Literal["none", "system"]
Arrivals = Literal["constant", "poisson"]

_WINDOWS = 3  # fewer, and perf_analyzer never calls a measurement stable
_ANY_SPREAD = "999"  # per cent between windows: the report shows the spread itself, over rounds
_END_S = 120.0  # what perf_analyzer may take beyond its windows: start, requests in flight
_INTERRUPTED_S = 5.0
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


@dataclass(frozen=True, kw_only=True)
class Point:
    """A way to load a server.

    Attributes:
        kind: which ensemble.
        protocol: of the requests.
        batch: images in a request.
        concurrency: callers that never pause; 0 where requests come at a rate.
        rate: requests a second, whether the others are answered or not; None for callers.
        arrivals: how requests at a rate follow each other.
        shared_memory: how images and answers travel.
    """

    kind: Kind = "pooled"
    protocol: Protocol = "grpc"
    batch: int = 1
    concurrency: int = 1
    rate: float | None = None
    arrivals: Arrivals = "constant"
    shared_memory: SharedMemory = "none"

    def __str__(self) -> str:
        """As the tables name it."""
        return names.load(asdict(self))


def grid(
    kinds: Sequence[Kind],
    protocols: Sequence[Protocol],
    batches: Sequence[int],
    concurrencies: Sequence[int],
    shared_memories: Sequence[SharedMemory],
) -> list[Point]:
    """Every combination."""
    return [
        Point(kind=kind, protocol=protocol, batch=batch, concurrency=concurrency, shared_memory=shared)
        for kind, protocol, shared, batch, concurrency in itertools.product(
            kinds, protocols, shared_memories, batches, concurrencies
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, and what to send it.

    Attributes:
        addresses: protocol → `host:port`.
        payload: perf_analyzer's input.
        output_bytes: of an answer for one image, by kind.
    """

    addresses: dict[Protocol, str]
    payload: Path
    output_bytes: dict[Kind, int]

    def source(self) -> Source:
        """Tells its statistics."""
        scheme: Protocol = "grpc" if "grpc" in self.addresses else "http"
        return Source(scheme, self.addresses[scheme])


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
        BenchError: it is another table.
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


def measure(analyzer: PerfAnalyzer, name: str, point: Point, target: Target, seconds: float) -> dict[str, Any]:
    """Runs perf_analyzer for one point, with a look at Triton's statistics before and after.

    Args:
        analyzer: the program.
        name: of the export.
        point: the load.
        target: the server.
        seconds: of the measurement; longer where no answer comes in a third of that.

    Returns:
        A row of the report: the point, what perf_analyzer says, the split of the time and the bottleneck.

    Raises:
        BenchError: perf_analyzer or the server cannot do it.
    """
    model = f"{name}_{point.kind}"
    source = target.source()
    steps = source.steps(model)
    before = source.look(steps.names)
    figures = _run(analyzer, model, point, target, seconds / _WINDOWS)
    client_s, images_per_s = figures["mean_ms"] / 1e3, figures["images_per_s"]
    parts = split(before, source.look(steps.names), steps, client_s=client_s, images_per_s=images_per_s)
    return row(point, figures, parts)


def long_enough(point: Point, seconds: float, rows: Sequence[Mapping[str, Any]]) -> float:
    """How long a measurement must be for each of its windows to have an answer to every caller.

    Args:
        point: what is measured next.
        seconds: at least.
        rows: what was measured before of the same model; the last one tells how fast it is.
    """
    speed = rows[-1]["images_per_s"] if rows else 0.0
    return max(seconds, _WINDOWS * _WAVES * point.concurrency * point.batch / speed) if speed else seconds


def row(point: Point, figures: dict[str, float], parts: Split | None) -> dict[str, Any]:
    """A row of the report."""
    made: dict[str, Any] = {
        "kind": point.kind,
        "protocol": point.protocol,
        "batch": point.batch,
        "shared_memory": point.shared_memory,
        **(
            {"concurrency": point.concurrency}
            if point.rate is None
            else {"rate": point.rate, "arrivals": point.arrivals}
        ),
        **figures,
    }
    if parts is not None:
        made["split_ms"] = {part: getattr(parts, f"{part}_s") * 1e3 for part in SPLIT}
        made["images_per_batch"] = parts.images_per_batch
        made["busy"] = {"preprocess": parts.preprocess_busy, "encode": parts.encode_busy}
        made["bottleneck"] = bottleneck(parts)
    return made


SPLIT = ("client", "queue", "preprocess", "encode", "copies", "other")


def preprocessing_alone(
    analyzer: PerfAnalyzer, name: str, point: Point, target: Target, seconds: float
) -> dict[str, float]:
    """The preprocessing step without an encoder behind it: images/s, and images/s of the time inside of the step."""
    source = target.source()
    step = source.steps(f"{name}_{point.kind}").preprocess
    before = source.look([step])[step]
    figures = _run(analyzer, step, point, target, seconds / _WINDOWS)
    own = source.look([step])[step].since(before)
    inside = own.images / (own.inside_ns * 1e-9) if own.inside_ns else 0.0
    return {"images_per_s": figures["images_per_s"], "inside_images_per_s": inside}


def _run(analyzer: PerfAnalyzer, model: str, point: Point, target: Target, window_s: float) -> dict[str, float]:
    for _ in range(_RETRIES):
        with tempfile.TemporaryDirectory(prefix="vitriton-bench-") as folder:
            if point.rate is not None and point.arrivals == "poisson":
                (Path(folder) / INTERVALS).write_text(poisson_intervals(point.rate, _WINDOWS * window_s))
            limit_s = _WINDOWS * window_s + _END_S
            status, said = _call(analyzer, arguments(model, point, target, window_s, Path(folder)), limit_s)
            table = Path(folder) / TABLE
            if status == 0 and table.is_file():
                return parse_table(table.read_text())
        if not any(sign in said for sign in _EMPTY_WINDOW):
            break
        window_s *= 2
    raise BenchError(f"perf_analyzer ended with status {status} on {model}: {_last_words(said)}")


def _call(analyzer: PerfAnalyzer, options: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Its exit status and what it said. In a session of its own, so that a Ctrl-C ends it once and in order."""
    with subprocess.Popen(
        [str(analyzer.executable), *options],
        env=analyzer.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        with _ended(process):
            try:
                said, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired as exc:
                raise BenchError(f"perf_analyzer did not end within {limit_s:.0f} s; does the server answer?") from exc
        return process.returncode, said


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens inside, the process has ended after it."""
    try:
        yield
    except BaseException:
        process.send_signal(signal.SIGINT)  # it lets the server answer what is in flight
        try:
            process.communicate(timeout=_INTERRUPTED_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
    return "; ".join((telling or lines)[-3:]) or "it said nothing"


def at_rate(point: Point, rate: float, arrivals: Arrivals) -> Point:
    """The same, with requests that come at a rate."""
    return replace(point, concurrency=0, rate=rate, arrivals=arrivals)
