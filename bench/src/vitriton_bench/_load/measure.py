"""Measures one load, as a row of the document."""

from __future__ import annotations

from typing import Any

from vitriton._repository.names import ENSEMBLES, ensemble_name

from vitriton_bench._load.perf_analyzer import run
from vitriton_bench._load.point import Point
from vitriton_bench._load.target import Target
from vitriton_bench._perf_analyzer.program import PerfAnalyzer
from vitriton_bench._statistics.split import SPLIT, Split, bottleneck, split


def measure(analyzer: PerfAnalyzer, name: str, point: Point, target: Target, seconds: float) -> dict[str, Any]:
    """Runs perf_analyzer for one point, and reads Triton's statistics before and after.

    Args:
        analyzer: the perf_analyzer program.
        name: the name of the export.
        point: the load.
        target: the server.
        seconds: the length of the measurement, longer if a third of it has no answer.

    Returns:
        A row of the report: the point, perf_analyzer's figures, the split of the time and the bottleneck.

    Raises:
        BenchError: perf_analyzer or the server failed.
    """
    model = ensemble_name(name, point.kind)
    source = target.source()
    steps = source.steps(model)
    before = source.read(steps.names)
    figures = run(analyzer, model, point, target, seconds)
    client_s, inputs_per_s = figures["mean_ms"] / 1e3, figures["inputs_per_s"]
    parts = split(before, source.read(steps.names), steps, client_s=client_s, inputs_per_s=inputs_per_s)
    return _row(point, figures, parts)


def _row(point: Point, figures: dict[str, float], parts: Split | None) -> dict[str, Any]:
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
        made["inputs_per_batch"] = parts.inputs_per_batch
        made["busy"] = {"preprocess": parts.preprocess_busy, "encode": parts.encode_busy}
        made["bottleneck"] = bottleneck(parts, ENSEMBLES[point.kind].tower)
    return made
