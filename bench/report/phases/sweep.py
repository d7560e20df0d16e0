"""A sweep of perf_analyzer over the exports, within its share of the time."""

from __future__ import annotations

from typing import Any

from vitriton_bench._errors import BenchError
from vitriton_bench._load.measure import measure
from vitriton_bench._load.perf_analyzer import long_enough
from vitriton_bench._load.point import Point

from report.plan import Plan
from report.state import State

_BATCH = 8
_ENDS = 0.4  # of the whole time, so that the rounds and the later phases keep the rest


def sweep(state: State) -> None:
    """Measures point after point; one that fails does not affect the others."""
    rows: list[dict[str, Any]] = state.document.setdefault("sweep", [])
    points, failed = _points(state.plan, state.fast), state.document["failed"]
    for number, (precision, point) in enumerate(points, start=1):
        if state.clock.left_s < state.plan.budget_s * _ENDS:
            failed[f"points {number} to {len(points)} of the sweep"] = "there was no time for them"
            break
        state.clock.say(f"perf_analyzer, point {number} of {len(points)}")
        own = state.served[precision, point.kind]
        known = [row for row in rows if row["precision"] == precision]
        seconds = long_enough(point, state.plan.sweep_s, known)
        try:
            row = measure(state.analyzer, own.name, point, own.target(state.payload), seconds)
        except BenchError as exc:
            failed[f"{precision}, {point}"] = str(exc)
            state.clock.say(str(exc))
            continue
        rows.append({"precision": precision, **row})


def _points(plan: Plan, fast: str) -> list[tuple[str, Point]]:
    """The precision and the load of each point."""
    points = [(precision, Point(concurrency=callers)) for precision in ("fp32", fast) for callers in plan.callers]
    if not plan.all_ways:
        return points
    middle = plan.callers[len(plan.callers) // 2]
    ways = [
        Point(concurrency=middle, protocol="http"),
        Point(concurrency=middle, shared_memory="system"),
        Point(concurrency=max(middle // _BATCH, 1), batch=_BATCH),
        Point(concurrency=middle, kind="unpooled"),
        Point(concurrency=middle, kind="unpooled", shared_memory="system"),
    ]
    return points + [("fp32", way) for way in ways]
