"""A small model, served and in one process: the encoder takes so little time that everything around it shows."""

from __future__ import annotations

from typing import Any

from vitriton_bench._load.measure import measure
from vitriton_bench._load.point import Point

from report.exports.checkpoint import random_vit
from report.exports.exports import export_one
from report.rounds.speed import best_of
from report.sides.onnx_runtime import Bare
from report.sides.triton import Served, served
from report.state import State

_NAME = "vit-tiny-random-fp32"
_BATCHES = (1, 4, 8, 16)
_CALLERS = 16
_LOOKS = 2
_KEPT = {"inputs_per_s", "p50_ms", "p99_ms", "split_ms", "busy", "bottleneck", "inputs_per_batch"}


def small(state: State) -> None:
    """Exports and serves a ViT-Tiny in float32, in turns with ONNX Runtime in this process."""
    state.clock.say("a ViT-Tiny, where the way through the server shows")
    plan, repository = state.plan, state.exports.repository
    model = str(random_vit("tiny", plan.work / "vit-tiny-random"))
    if _NAME not in state.exports.names.values():
        export_one(plan, model, _NAME, lambda text: None, precision="fp32", outputs="pooled", gpu=state.gpu)
    bare = Bare(repository, _NAME, state.images, state.cores, gpu=state.gpu)
    speeds = best_of(bare.from_bytes, _BATCHES, plan.look_s / 2, _LOOKS)
    batch = max(speeds, key=lambda size: speeds[size])
    with served(repository, _NAME, "pooled", state.images, state.scratch / "small") as server:
        state.document["small"] = {"batch": batch, "callers": _CALLERS, "rounds": []}
        for _ in range(plan.looks_after):
            state.document["small"]["rounds"].append(_round(state, bare, batch, server))


def _round(state: State, bare: Bare, batch: int, server: Served) -> dict[str, Any]:
    """Measures both sides, one right after the other."""
    seconds = state.plan.look_s * 1.5
    alone = bare.from_bytes(batch, seconds)
    target = server.target(state.payload)
    found = measure(state.analyzer, server.name, Point(concurrency=_CALLERS), target, seconds)
    return {
        "one process": {"inputs_per_s": alone.inputs_per_s},
        "served": {name: value for name, value in found.items() if name in _KEPT},
    }
