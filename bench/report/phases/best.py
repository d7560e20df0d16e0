"""Finds the best number of callers or batch size for each side."""

from __future__ import annotations

from typing import Any

from report import names
from report.rounds.speed import best_of
from report.state import State

_CLOSE = 0.9  # of the best speed: a smaller difference is within the noise


def best(state: State) -> None:
    """Takes the numbers of callers from the sweep, and measures the batch sizes."""
    plan, settings = state.plan, state.document["settings"]
    settings["callers"] = {
        precision: best_callers(state.document["sweep"], precision) for precision in ("fp32", state.fast)
    }
    state.clock.say(f"which of the batch sizes {', '.join(map(str, plan.batches))} is best for each")
    peers = {names.pipeline(dtype): own.sample for dtype, own in state.pipelines.items()}
    graphs: dict[str, Any] = {}
    for precision, own in state.bares.items():
        graphs[names.bare(precision, "ready pixels")] = own.ready_pixels
        graphs[names.bare(precision, "from JPEG")] = own.from_bytes
    speeds = {
        name: best_of(sample, plan.batches, plan.look_s, looks)
        for samples, looks in ((peers, plan.peer_looks), (graphs, plan.looks))
        for name, sample in samples.items()
    }
    state.document["looks"] = {name: {str(b): speed for b, speed in own.items()} for name, own in speeds.items()}
    settings["batch"] = {name: max(own, key=lambda batch: own[batch]) for name, own in speeds.items()}


def best_callers(sweep: list[dict[str, Any]], precision: str) -> int:
    """The highest number of callers whose throughput is close to the best."""
    plain = [
        row
        for row in sweep
        if (row["precision"], row["kind"], row["protocol"], row["batch"], row["shared_memory"])
        == (precision, "pooled", "grpc", 1, "none")
    ]
    top = max((row["inputs_per_s"] for row in plain), default=0.0)
    return int(max((row["concurrency"] for row in plain if row["inputs_per_s"] >= _CLOSE * top), default=names.MANY))
