"""The choice of the signal for an autoscaler: latency and number of servers under a changing load, simulated.

    python bench/autoscaling.py [--from bench/results/report.json] [--start 60] [--seeds 5] [--plot FILE.svg]

Requests arrive at random, at a rate that climbs, holds, jumps and falls within 80 minutes. Clients send them to the
servers in turn. Each server takes the oldest requests of its queue, eight at most, and computes them in the time that
the report measured for such a batch; meanwhile, its second instance holds the next batch. Every 15 seconds, the
autoscaler reads a signal and sets the number of servers as a HorizontalPodAutoscaler does, with the limits on its speed
that the chart sets. A new server takes `--start` seconds until it is ready; one that ends answers what it has accepted.
Nothing is measured here, so the machine does not matter.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BATCH = 8  # what Triton's dynamic batcher prefers on a CPU
QUEUE = 256  # the default of `vitriton export --max-queue-size`
OBJECTIVE_S = 2.0  # that of the alerts
INTERVAL_S = 15.0  # of the autoscaler, and of Prometheus
RATE_WINDOWS = 4  # intervals in a `rate(...[1m])`
STABILIZATION_S = 300.0
TOLERANCE = 0.1  # the autoscaler ignores smaller differences
SMALLEST, LARGEST = 2, 12

# The load, as multiples of what one server can do: pairs of minute and load, with straight lines between them
LOAD = ((0, 1.0), (10, 1.0), (15, 4.0), (30, 4.0), (30.2, 7.0), (36, 7.0), (36.2, 4.0), (50, 4.0), (60, 1.0), (80, 1.0))


def load_at(minute: float) -> float:
    """Returns the load at a time, as a multiple of what one server can do."""
    for (start, before), (end, after) in itertools.pairwise(LOAD):
        if minute <= end:
            return before + (after - before) * (minute - start) / (end - start)
    return LOAD[-1][1]


@dataclass(frozen=True)
class BatchTime:
    """The time of a batch of n images: `fixed_s + n × image_s`, in seconds."""

    fixed_s: float
    image_s: float

    @classmethod
    def of_report(cls, path: Path, precision: str) -> BatchTime:
        """Fits the time to the encoder's in a report, at the smallest and the largest batches."""
        sweep = json.loads(path.read_text())["sweep"]
        points = sorted(
            (point["inputs_per_batch"], (point["split_ms"]["encode"] + point["split_ms"]["preprocess"]) / 1000)
            for point in sweep
            if (point["precision"], point["kind"], point["protocol"], point["batch"])
            == (precision, "pooled", "grpc", 1)
        )
        (small, small_s), (large, large_s) = points[0], points[-1]
        image_s = (large_s - small_s) / (large - small)
        return cls(max(0.0, small_s - image_s * small), image_s)

    def seconds(self, images: int) -> float:
        """Returns the time of a batch, in seconds."""
        return self.fixed_s + images * self.image_s

    @property
    def capacity(self) -> float:
        """The most images per second of one server."""
        return BATCH / self.seconds(BATCH)


@dataclass(eq=False)
class Server:
    """One server: its queue, the batch that waits in the second instance, and what it has done in this interval."""

    ready_s: float
    queue: deque[float] = field(default_factory=deque)
    held: list[float] = field(default_factory=list)
    held_s: float = 0.0  # since when
    computing: bool = False
    leaving: bool = False
    busy_s: float = 0.0
    waited_s: float = 0.0
    started: int = 0


@dataclass(frozen=True)
class Reading:
    """What the metrics of all ready servers say after an interval.

    Attributes:
        busy: the mean number of batches in the two instances of an encoder, from 0 to 2: a batch that waits for the
            other instance counts as computing in Triton's statistics.
        queue_s: the mean time that a request waited, in seconds.
        pending: the mean number of requests in a queue, at the end of the interval.
    """

    busy: float
    queue_s: float
    pending: float


Signal = Callable[[Sequence[Reading]], float]


def _recent(readings: Sequence[Reading], name: str, windows: int) -> float:
    return statistics.fmean(getattr(each, name) for each in readings[-windows:])


# The signals, each divided by its target: 1 means that the number of servers is right
SIGNALS: dict[str, Signal] = {
    "busy, 0.7": lambda readings: _recent(readings, "busy", 2) / 0.7,
    "queue time, 0.5 s": lambda readings: _recent(readings, "queue_s", RATE_WINDOWS) / 0.5,
    "pending requests, 8": lambda readings: readings[-1].pending / 8,
    "the larger of 0.7 and 8": lambda readings: max(_recent(readings, "busy", 2) / 0.7, readings[-1].pending / 8),
}


@dataclass
class Outcome:
    """What a run was like.

    Attributes:
        latencies: for each answered request, when it arrived and how long it took, in seconds.
        refused: the number of requests that found a full queue.
        servers: for each interval, its end in minutes and the number of servers, ready or not.
    """

    latencies: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0
    servers: list[tuple[float, int]] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Returns a percentile of the latencies, in seconds."""
        ordered = sorted(latency for _, latency in self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def late(self) -> float:
        """The share of the requests that were refused, or took longer than the objective."""
        late = sum(latency > OBJECTIVE_S for _, latency in self.latencies)
        return (late + self.refused) / (len(self.latencies) + self.refused)

    @property
    def mean_servers(self) -> float:
        """The mean number of servers, which is what they cost."""
        return statistics.fmean(number for _, number in self.servers)

    @property
    def changes(self) -> int:
        """How often the number of servers changed."""
        return sum(one[1] != other[1] for one, other in itertools.pairwise(self.servers))


class Scaler:
    """A HorizontalPodAutoscaler with the behavior of the chart."""

    def __init__(self) -> None:
        self._wanted: deque[tuple[float, int]] = deque()
        self._reduced_s = -math.inf

    def number(self, now_s: float, current: int, ready: int, ratio: float) -> int:
        """Returns the number of servers to have.

        Args:
            now_s: the time, in seconds.
            current: the number of servers, ready or not.
            ready: the number of those that are ready, of which the signal is the mean.
            ratio: the signal, divided by its target.
        """
        # For more servers, those that are not ready count as idle
        changes = ratio < 1 - TOLERANCE or ratio * ready / current > 1 + TOLERANCE
        wanted = min(LARGEST, max(SMALLEST, math.ceil(ready * ratio) if changes else current))
        self._wanted.append((now_s, wanted))
        while self._wanted[0][0] < now_s - STABILIZATION_S:
            self._wanted.popleft()
        if wanted > current:
            return min(wanted, max(2 * current, current + 2))
        stable = max(number for _, number in self._wanted)
        if stable < current and now_s - self._reduced_s >= 60:
            self._reduced_s = now_s
            return current - 1
        return current


class Simulation:
    """One run: arrivals, servers and an autoscaler on a common clock."""

    def __init__(self, batch: BatchTime, signal: Signal, start_s: float, seed: int) -> None:
        self._batch, self._signal, self._start_s = batch, signal, start_s
        self._random = random.Random(seed)
        self._servers = [Server(0.0) for _ in range(SMALLEST)]
        self._events: list[tuple[float, int, Server, list[float]]] = []  # the ends of batches
        self._turn = self._number = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Runs to the end of the load, and returns what it was like."""
        scaler, readings = Scaler(), deque[Reading](maxlen=RATE_WINDOWS)
        now_s, end_s = 0.0, LOAD[-1][0] * 60.0
        arrival_s = self._next_arrival(0.0)
        while now_s < end_s:
            until_s = now_s + INTERVAL_S
            while True:
                batch_s = self._events[0][0] if self._events else math.inf
                if min(arrival_s, batch_s) >= until_s:
                    break
                if batch_s <= arrival_s:
                    self._finish()
                else:
                    self._arrive(arrival_s)
                    arrival_s = self._next_arrival(arrival_s)
            now_s = until_s
            ready = [each for each in self._servers if each.ready_s <= now_s and not each.leaving]
            readings.append(self._read(ready))
            current = [each for each in self._servers if not each.leaving]
            wanted = scaler.number(now_s, len(current), len(ready), self._signal(list(readings)))
            self._scale(now_s, current, wanted)
            self.outcome.servers.append((now_s / 60, wanted))
        return self.outcome

    def _next_arrival(self, now_s: float) -> float:
        return now_s + self._random.expovariate(load_at(now_s / 60) * self._batch.capacity)

    def _arrive(self, now_s: float) -> None:
        ready = [each for each in self._servers if each.ready_s <= now_s and not each.leaving]
        self._turn += 1
        server = ready[self._turn % len(ready)]
        if len(server.queue) >= QUEUE:
            self.outcome.refused += 1
            return
        server.queue.append(now_s)
        self._begin(server, now_s)

    def _begin(self, server: Server, now_s: float) -> None:
        if not server.computing and (server.held or server.queue):
            batch, since_s = (server.held, server.held_s) if server.held else (self._take(server, now_s), now_s)
            server.held = []
            seconds = self._batch.seconds(len(batch))
            server.computing = True
            server.busy_s += now_s - since_s + seconds
            self._number += 1
            heapq.heappush(self._events, (now_s + seconds, self._number, server, batch))
        if not server.held and server.queue:
            server.held, server.held_s = self._take(server, now_s), now_s

    def _take(self, server: Server, now_s: float) -> list[float]:
        taken = [server.queue.popleft() for _ in range(min(BATCH, len(server.queue)))]
        server.waited_s += sum(now_s - each for each in taken)
        server.started += len(taken)
        return taken

    def _finish(self) -> None:
        now_s, _, server, taken = heapq.heappop(self._events)
        self.outcome.latencies += [(arrived_s, now_s - arrived_s) for arrived_s in taken]
        server.computing = False
        self._begin(server, now_s)

    def _read(self, ready: Sequence[Server]) -> Reading:
        started = sum(each.started for each in ready)
        reading = Reading(
            busy=min(2.0, statistics.fmean(each.busy_s for each in ready) / INTERVAL_S),
            queue_s=sum(each.waited_s for each in ready) / started if started else 0.0,
            pending=statistics.fmean(len(each.queue) for each in ready),
        )
        for each in self._servers:
            each.busy_s, each.waited_s, each.started = 0.0, 0.0, 0
        return reading

    def _scale(self, now_s: float, current: Sequence[Server], wanted: int) -> None:
        self._servers += [Server(now_s + self._start_s) for _ in range(wanted - len(current))]
        newest = sorted(current, key=lambda each: -each.ready_s)  # those that are not ready end first
        for each in newest[: max(0, len(current) - wanted)]:
            each.leaving = True
        self._servers = [each for each in self._servers if not each.leaving or each.computing or each.queue]


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Returns the outcomes as a table of Markdown, each the median of its runs."""
    lines = [
        f"| signal, target | p50 | p99 | refused, or over {OBJECTIVE_S:g} s | mean servers | changes |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in outcomes.items():
        p50, p99 = (statistics.median(run.percentile(share) for run in runs) for share in (0.5, 0.99))
        late = statistics.median(run.late for run in runs)
        servers = statistics.median(run.mean_servers for run in runs)
        changes = statistics.median(run.changes for run in runs)
        lines.append(f"| {name} | {p50:.2f} s | {p99:.1f} s | {late:.1%} | {servers:.1f} | {changes:g} |")
    return "\n".join(lines)


def plot(outcomes: dict[str, list[Outcome]], target: Path) -> None:
    """Draws load, servers and latencies over the time, of the first run with each signal."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "vitriton", "svg.fonttype": "path", "font.size": 9}):
        _draw(outcomes, target)


def _draw(outcomes: dict[str, list[Outcome]], target: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    axes = figure.subplots(2, len(outcomes), sharex=True, sharey="row", squeeze=False)
    minutes = [minute / 4 for minute in range(LOAD[-1][0] * 4)]
    for upper, lower, (name, runs) in zip(*axes, outcomes.items(), strict=True):
        upper.plot(minutes, [load_at(minute) for minute in minutes], color="0.6", label="load, in servers")
        upper.step(*zip(*runs[0].servers, strict=True), where="pre", label="servers")
        upper.set_title(name)
        by_minute: dict[int, list[float]] = {}
        for arrived_s, latency in runs[0].latencies:
            by_minute.setdefault(int(arrived_s / 60), []).append(latency)
        worst = [(minute, sorted(each)[int(0.99 * len(each))]) for minute, each in sorted(by_minute.items())]
        lower.plot(*zip(*worst, strict=True), color="C3", label="p99 of each minute, s")
        lower.axhline(OBJECTIVE_S, color="0.6", linestyle=":")
        lower.set(xlabel="minutes", yscale="log")
    axes[0][0].legend(fontsize=7)
    axes[1][0].legend(fontsize=7)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="report", type=Path, default=Path("bench/results/report.json"))
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--start", type=float, default=60.0, help="seconds until a new server is ready")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs for each signal")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args(arguments)
    batch = BatchTime.of_report(given.report, given.precision)
    print(f"One server: {batch.capacity:.1f} images/s; a batch of {BATCH} takes {batch.seconds(BATCH):.2f} s.\n")
    outcomes = {
        name: [Simulation(batch, signal, given.start, seed).run() for seed in range(given.seeds)]
        for name, signal in SIGNALS.items()
    }
    print(table(outcomes))
    if given.plot is not None:
        plot(outcomes, given.plot)


if __name__ == "__main__":
    main()
