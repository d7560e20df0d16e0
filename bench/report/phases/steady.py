"""Requests at a steady rate below the peak."""

from __future__ import annotations

from vitriton_bench._load.measure import measure
from vitriton_bench._load.point import Point, at_rate

from report.state import State

_LOAD = 0.7


def steady(state: State) -> None:
    """Measures p99 at 70 % of the peak load, right after the peak and decoding and inference alone."""
    own, rows = state.served["fp32", "pooled"], state.document.setdefault("steady", [])
    for arrivals in state.plan.steady:
        state.clock.say(f"requests at 70 % of the peak, {arrivals}")
        alone = state.bares["fp32"].from_bytes(1, state.plan.seconds)
        peak = own.sample(state.document["settings"]["callers"]["fp32"], state.plan.seconds)
        point = at_rate(Point(), _LOAD * peak.inputs_per_s, arrivals)
        row = measure(state.analyzer, own.name, point, own.target(state.payload), state.plan.steady_s)
        rows.append({**row, "alone_p50_ms": alone.p50_ms, "peak_images_per_s": peak.inputs_per_s})
