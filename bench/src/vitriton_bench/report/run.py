"""The whole report: exports, limits, a sweep, rounds against the peers, and what else the targets ask for.

Each phase adds what it measured to one document, which is written after each phase and is all that tables, pages and
plots are made of. An interruption ends the phases and keeps the document.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vitriton_server import usable_cores

from vitriton_bench import _document, _machine
from vitriton_bench._errors import BenchError
from vitriton_bench._load.point import Point, at_rate, long_enough, measure, preprocessing_alone
from vitriton_bench._payload import find_images, write_payload
from vitriton_bench._perf_analyzer import program as perf
from vitriton_bench.report import names
from vitriton_bench.report.clock import Clock
from vitriton_bench.report.exports import exports as _exports
from vitriton_bench.report.machine import limits as _limits
from vitriton_bench.report.phases.large import SIZE, Large
from vitriton_bench.report.plan import Plan
from vitriton_bench.report.rounds import rounds as _rounds
from vitriton_bench.report.rounds.rounds import Measurement
from vitriton_bench.report.sides.contenders import Bare, Pipeline, best_of
from vitriton_bench.report.sides.litserve import LitServe
from vitriton_bench.report.sides.reference import flop, worst_cosine
from vitriton_bench.report.sides.triton import Peer, Served, served

_STEADY_LOAD = 0.7
_LARGE_ROUNDS = 15
_CLOSE = 0.9  # of the best speed: within what two measurements of the same thing differ by
_SWEEP_BATCH = 8
_STEP_BATCH = 32
_SWEEP_ENDS = 0.4  # of the whole time: what the rounds and all after them are left at least


class Report:
    """One run.

    Args:
        plan: what to measure.
        target: the file of the document; None for none.
        command: that made it, as the document tells it.
        tell: shows a line of progress.
    """

    def __init__(self, plan: Plan, target: Path | None, command: str, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._target = target
        self._clock = Clock(plan.budget_s, tell)
        self._cores = usable_cores()
        self._gpu = torch.cuda.is_available()
        self._device = "cuda" if self._gpu else "cpu"
        self._fast, self._peer_fast = ("fp16", "fp16") if self._gpu else ("int8", "bf16")
        paths = find_images(plan.images)
        if not paths:
            raise BenchError(
                f"{plan.images} has no photos; name a folder of .jpg, .jpeg, .png or .webp files with --images"
            )
        self._images = [path.read_bytes() for path in paths]
        self._stack = contextlib.ExitStack()
        self.document: dict[str, Any] = {
            "format": _document.FORMAT,
            "command": command,
            "machine": _machine.describe(),
            "versions": _machine.versions(),
            "images": _exports.describe_images(self._images),
            "settings": {
                "device": "gpu" if self._gpu else "cpu",
                "fast": self._fast,
                "peer_fast": self._peer_fast,
                "seconds": plan.seconds,
                "rounds": plan.rounds,
            },
            "failed": {},
        }

    def run(self) -> dict[str, Any]:
        """Measures; returns the document, also after an interruption.

        Raises:
            BenchError: something that everything else needs is missing, or there was no time for any load.
            KeyboardInterrupt: it was interrupted before anything was measured.
        """
        needed = (self._prepare, self._limits, self._start)
        others = (
            self._sweep,
            self._best,
            self._rounds,
            self._limits_again,
            self._steady,
            self._preprocessing,
            self._memory,
            self._large,
            self._small,
        )
        with self._stack:
            try:
                for phase in needed:
                    phase()
                    self._save()
                for phase in others:
                    self._attempt(phase)
                    self._save()
            except KeyboardInterrupt:
                if not self._has_measured():
                    self._clock.say("interrupted before anything was measured")
                    raise
                self.document["interrupted"] = True
                self._clock.say("interrupted: what was measured so far is kept")
        if not self._has_measured():
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.document["failed"].items())
            raise BenchError(f"nothing was measured: {reasons}")
        self.document["took_s"] = self._clock.elapsed_s
        return self._save()

    def _has_measured(self) -> bool:
        """Whether there is more than the machine's limits; until then a file of before stays."""
        return any(self.document.get(phase) for phase in ("sweep", "rounds"))

    def _attempt(self, phase: Callable[[], None]) -> None:
        """A phase that fails, or for which no time is left, costs its own figures only."""
        name = phase.__name__.strip("_")
        if self._clock.left_s < 0:
            self.document["failed"][name] = "there was no time for it"
            return
        try:
            phase()
        except Exception as exc:  # peers and programs of others can fail in any way
            self.document["failed"][name] = f"{type(exc).__name__}: {exc}"
            self._clock.say(f"{name} failed and is left out: {exc}")

    def _save(self) -> dict[str, Any]:
        known: dict[str, Any] = _document.significant(self.document)
        if self._target is not None and self._has_measured():
            _document.write(known, self._target)
        return known

    def _prepare(self) -> None:
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vitriton-bench-")))
        self._payload = self._scratch / "payload.json"
        write_payload(find_images(self._plan.images), self._payload)
        self._analyzer = perf.get(self._plan.perf_analyzer, self._clock.say)
        self.document["versions"]["perf_analyzer"] = self._analyzer.version
        self._exports = _exports.export(self._plan, self._fast, self._clock.say, gpu=self._gpu)
        self.document["model"] = self._exports.describe()

    def _limits(self) -> None:
        self._clock.say("limits of the machine: matrix products, memory, Pillow")
        self._bares = {
            precision: Bare(self._exports.repository, name, self._images, self._cores, gpu=self._gpu)
            for precision, name in self._exports.names.items()
        }
        self.document["limits"] = self._look_at_limits()

    def _limits_again(self) -> None:
        """The faster of two looks counts: a limit that was seen in a slow moment is none."""
        if not self._plan.limits_twice:
            return
        self._clock.say("limits of the machine, once more")
        self.document["limits"] = faster(self.document["limits"], self._look_at_limits())

    def _look_at_limits(self) -> dict[str, Any]:
        seconds = self._plan.seconds
        return {
            "products": _limits.matrix_products(2 * seconds, self._cores, self._gpu),
            "memory_bytes_per_s": _limits.memory(seconds / 2, self._gpu),
            "decoding": _limits.decoding(self._images, self._bares["fp32"].spec, seconds, self._cores),
        }

    def _start(self) -> None:
        self._clock.say("loading the peers, starting the servers")
        model, pooling = self._exports.model, self._exports.pooling
        peers = {
            dtype: self._stack.enter_context(LitServe(model, dtype, pooling, _exports.PEER_BATCH))
            for dtype in self._peer_dtypes()
        }
        self._pipelines = {
            dtype: Pipeline(model, dtype, pooling, self._images, self._device) for dtype in ("fp32", self._peer_fast)
        }
        spec = self._bares["fp32"].spec
        pixels = torch.zeros(1, 3, spec.height, spec.width, device=self._device)
        self.document["model"]["flop"] = flop(self._pipelines["fp32"].network, pixels)
        self._served = {
            (precision, kind): self._serve(self._exports.names[precision], kind)
            for precision, kind in (("fp32", "pooled"), ("fp32", "unpooled"), (self._fast, "pooled"))
        }
        self._peers: dict[str, Peer] = {}
        for dtype, started in peers.items():
            try:
                self._peers[dtype] = Peer(started, self._images)
            except BenchError as exc:
                self._without_peer(dtype, exc)
        self._clock.say("how far each is from float32")
        self.document["accuracy"] = self._accuracy()

    def _peer_dtypes(self) -> tuple[str, ...]:
        """Those that LitServe is compared in; none where it is not installed."""
        if importlib.util.find_spec("litserve") is not None:
            return ("fp32", self._peer_fast)
        self._without_peer("", BenchError("it is not installed; `pip install 'vitriton-bench[report]'`"))
        return ()

    def _without_peer(self, dtype: str, reason: BenchError) -> None:
        name = f"LitServe {dtype}".strip()
        self.document["failed"][name] = str(reason)
        self._clock.say(f"{name} is left out: {reason}")

    def _serve(self, name: str, kind: Any) -> Served:
        return self._stack.enter_context(
            served(self._exports.repository, name, kind, self._images, self._scratch / "served")
        )

    def _accuracy(self) -> dict[str, float]:
        """The worst image's cosine similarity with transformers in float32, one image at a time."""
        reference = np.concatenate([self._pipelines["fp32"].embed([image], 1) for image in self._images])
        answers = {f"pipeline {dtype}": own.embed(self._images, 8) for dtype, own in self._pipelines.items()}
        answers |= {f"LitServe {dtype}": own.embed(self._images) for dtype, own in self._peers.items()}
        answers |= {f"ONNX Runtime {precision}": own.embed(self._images) for precision, own in self._bares.items()}
        answers |= {
            f"Vitriton {precision}": own.embed(self._images)
            for (precision, kind), own in self._served.items()
            if kind == "pooled"
        }
        return {name: worst_cosine(own, reference) for name, own in answers.items()}

    def _sweep(self) -> None:
        rows = self.document["sweep"] = []
        plain = [Point(concurrency=callers) for callers in self._plan.callers]
        middle = self._plan.callers[len(self._plan.callers) // 2]
        points = [("fp32", point) for point in plain] + [(self._fast, point) for point in plain]
        ways = [
            ("fp32", Point(concurrency=middle, protocol="http")),
            ("fp32", Point(concurrency=middle, shared_memory="system")),
            ("fp32", Point(concurrency=max(middle // _SWEEP_BATCH, 1), batch=_SWEEP_BATCH)),
            ("fp32", Point(concurrency=middle, kind="unpooled")),
            ("fp32", Point(concurrency=middle, kind="unpooled", shared_memory="system")),
        ]
        points += ways if self._plan.all_ways else []
        for number, (precision, point) in enumerate(points, start=1):
            if self._clock.left_s < self._plan.budget_s * _SWEEP_ENDS:
                self.document["failed"][f"points {number} to {len(points)} of the sweep"] = "there was no time for them"
                break
            self._clock.say(f"perf_analyzer, point {number} of {len(points)}")
            own = self._served[precision, point.kind]
            known = [row for row in rows if row["precision"] == precision]
            seconds = long_enough(point, self._plan.sweep_s, known)
            try:
                row = measure(self._analyzer, own.name, point, own.target(self._payload), seconds)
            except BenchError as exc:
                self.document["failed"][f"{precision}, {point}"] = str(exc)
                self._clock.say(str(exc))
                continue
            rows.append({"precision": precision, **row})

    def _best(self) -> None:
        settings = self.document["settings"]
        settings["callers"] = {
            precision: best_callers(self.document["sweep"], precision) for precision in ("fp32", self._fast)
        }
        self._clock.say(f"which of the batch sizes {', '.join(map(str, self._plan.batches))} is best for each")
        peers = {names.pipeline(dtype): own.sample for dtype, own in self._pipelines.items()}
        graphs: dict[str, Any] = {}
        for precision, own in self._bares.items():
            graphs[names.bare(precision, "ready pixels")] = own.ready_pixels
            graphs[names.bare(precision, "from JPEG")] = own.from_bytes
        plan = self._plan
        speeds = {
            name: best_of(sample, plan.batches, plan.look_s, looks)
            for samples, looks in ((peers, plan.peer_looks), (graphs, plan.looks))
            for name, sample in samples.items()
        }
        self.document["looks"] = {name: {str(b): speed for b, speed in own.items()} for name, own in speeds.items()}
        settings["batch"] = {name: max(own, key=lambda batch: own[batch]) for name, own in speeds.items()}

    def _rounds(self) -> None:
        self.document["rounds"] = []
        _rounds.run(
            self._measurements(),
            self.document["rounds"],
            self.document["failed"],
            most=self._plan.rounds,
            allowed_s=lambda: self._clock.left_s - self._plan.after_s,
            say=self._between,
        )

    def _between(self, text: str) -> None:
        self._save()
        self._clock.say(text)

    def _measurements(self) -> dict[str, Measurement]:
        """All that takes turns, by name: what is set against each other is next to each other."""
        seconds, batch = self._plan.seconds, self.document["settings"]["batch"]
        found: dict[str, Measurement] = {}
        for dtype, pipe in self._pipelines.items():
            found[names.pipeline(dtype)] = _bound(pipe.sample, batch[names.pipeline(dtype)], seconds)
        for dtype, peer in self._peers.items():
            for callers in (names.MANY, 1):
                found[names.litserve(dtype, callers)] = _bound(peer.sample, callers, seconds)
        for precision, own in self._bares.items():
            for way, sample in (("ready pixels", own.ready_pixels), ("from JPEG", own.from_bytes)):
                name = names.bare(precision, way)  # type: ignore[arg-type]  # the two there are
                found[name] = _bound(sample, batch[name], seconds)
            found[names.one_by_one(precision)] = _bound(own.from_bytes, 1, seconds)
        for (precision, kind), server in self._served.items():
            several = (
                {names.MANY, 1, self.document["settings"]["callers"][precision]} if kind == "pooled" else {names.MANY}
            )
            for callers in sorted(several, reverse=True):
                found[names.ours(precision, callers, kind)] = _bound(server.sample, callers, seconds)
        turns = _turns(self._fast, self._peer_fast, self.document["settings"]["callers"])
        first = {name: found[name] for name in turns if name in found}
        return first | found

    def _steady(self) -> None:
        """p99 at 70 % of the peak load, with decoding and inference alone and the peak itself just before."""
        own, rows = self._served["fp32", "pooled"], self.document.setdefault("steady", [])
        for arrivals in self._plan.steady:
            self._clock.say(f"requests at 70 % of the peak, {arrivals}")
            alone = self._bares["fp32"].from_bytes(1, self._plan.seconds)
            peak = own.sample(self.document["settings"]["callers"]["fp32"], self._plan.seconds)
            point = at_rate(Point(), _STEADY_LOAD * peak.images_per_s, arrivals)
            row = measure(self._analyzer, own.name, point, own.target(self._payload), self._plan.steady_s)
            rows.append({**row, "alone_p50_ms": alone.p50_ms, "peak_images_per_s": peak.images_per_s})

    def _preprocessing(self) -> None:
        self._clock.say("the preprocessing step without an encoder")
        own, rows = self._served["fp32", "pooled"], self.document.setdefault("preprocessing", [])
        # one caller: while the step works, perf_analyzer has nothing to do, and takes no core from it
        load = Point(batch=_STEP_BATCH, concurrency=1)
        for _ in range(self._plan.looks_after):
            pillow = _limits.decoding(
                self._images, self._bares["fp32"].spec, self._plan.look_s, self._cores, of=statistics.median
            )
            found = preprocessing_alone(
                self._analyzer, own.name, load, own.target(self._payload), self._plan.look_s * 2
            )
            alone = {f"{cores}_images_per_s": speed for cores, speed in pillow.items()}
            rows.append({**found, **alone})

    def _large(self) -> None:
        self._clock.say("photos of 12 megapixels, decoded exactly and at a part of their size")
        large, bare = Large.of(self._images, self._bares["fp32"].spec), self._bares["fp32"]
        self.document["large"] = {
            "size": list(SIZE),
            "mean_bytes": statistics.mean(map(len, large.photos)),
            "worst_cosine": large.worst_cosine(bare.run),
            "rounds": [large.round(number) for number in range(_LARGE_ROUNDS)],
        }

    def _small(self) -> None:
        """A model that is so fast that everything around it shows."""
        from vitriton_bench.report.phases.small import measure_small

        self._clock.say("a ViT-Tiny, where the way through the server shows")
        with measure_small(self._plan, self._exports, self._images, self._scratch, self._cores, gpu=self._gpu) as small:
            self.document["small"] = {"batch": small.batch, "callers": small.callers, "rounds": []}
            for _ in range(self._plan.looks_after):
                self.document["small"]["rounds"].append(small.round(self._analyzer, self._payload, self._plan))

    def _memory(self) -> None:
        own = self._served["fp32", "pooled"]
        self.document["memory"] = {"weights": own.graph_bytes, **own.resident_bytes()}


def _turns(fast: str, peer_fast: str, callers: dict[str, int]) -> list[str]:
    """The order of a round: a machine is not the same from one minute to the next, so none is between two sides."""
    return [
        names.litserve("fp32", names.MANY),
        names.ours("fp32", names.MANY, "unpooled"),
        names.ours("fp32", names.MANY),
        names.bare("fp32", "ready pixels"),
        names.ours("fp32", callers["fp32"]),  # mostly that of before
        names.pipeline("fp32"),
        names.ours(fast, callers[fast]),
        names.pipeline(peer_fast),
        names.ours(fast, names.MANY),
        names.litserve(peer_fast, names.MANY),
        names.litserve(peer_fast, 1),
        names.ours(fast, 1),
        names.litserve("fp32", 1),
        names.ours("fp32", 1),
        names.one_by_one("fp32"),
    ]


def best_callers(sweep: list[dict[str, Any]], precision: str) -> int:
    """The number of callers with the highest throughput; of those that are nearly as good the highest number."""
    plain = [
        row
        for row in sweep
        if (row["precision"], row["kind"], row["protocol"], row["batch"], row["shared_memory"])
        == (precision, "pooled", "grpc", 1, "none")
    ]
    top = max((row["images_per_s"] for row in plain), default=0.0)
    return int(max((row["concurrency"] for row in plain if row["images_per_s"] >= _CLOSE * top), default=names.MANY))


def faster(one: Any, other: Any) -> Any:
    """The higher of two numbers, and of those in two dicts of the same keys."""
    if isinstance(one, dict):
        return {name: faster(value, other[name]) for name, value in one.items()}
    return max(one, other)


def _bound(sample: Callable[[int, float], Any], setting: int, seconds: float) -> Measurement:
    return lambda: sample(setting, seconds)
