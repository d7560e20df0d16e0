"""The preprocessing step without an encoder, compared with Pillow."""

from __future__ import annotations

import statistics

from vitriton._repository.names import ensemble_name
from vitriton_bench._load.perf_analyzer import run
from vitriton_bench._load.point import Point
from vitriton_bench._load.target import Target
from vitriton_bench._perf_analyzer.program import PerfAnalyzer

from report.limits import decoding
from report.state import State

_BATCH = 32


def preprocessing(state: State) -> None:
    """Measures both, one right after the other."""
    state.clock.say("the preprocessing step without an encoder")
    own, rows = state.served["fp32", "pooled"], state.document.setdefault("preprocessing", [])
    # one caller: while the step works, perf_analyzer is idle and takes no core from it
    load = Point(batch=_BATCH, concurrency=1)
    for _ in range(state.plan.looks_after):
        spec = state.bares["fp32"].spec
        pillow = decoding(state.images, spec, state.plan.look_s, state.cores, of=statistics.median)
        found = _alone(state.analyzer, own.name, load, own.target(state.payload), state.plan.look_s * 2)
        rows.append({**found, **{f"{cores}_images_per_s": speed for cores, speed in pillow.items()}})


def _alone(analyzer: PerfAnalyzer, name: str, point: Point, target: Target, seconds: float) -> dict[str, float]:
    """Measures images/s, and images/s of the time inside the step."""
    source = target.source()
    step = source.steps(ensemble_name(name, point.kind)).preprocess
    before = source.read([step])[step]
    figures = run(analyzer, step, point, target, seconds)
    own = source.read([step])[step].since(before)
    inside = own.images / (own.inside_ns * 1e-9) if own.inside_ns else 0.0
    return {"inputs_per_s": figures["inputs_per_s"], "inside_images_per_s": inside}
