"""A small model, served and in one process: the encoder takes so little time that everything around it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitriton_bench._load.point import Point, measure
from vitriton_bench._perf_analyzer.program import PerfAnalyzer
from vitriton_bench.report.exports.checkpoint import random_vit
from vitriton_bench.report.exports.exports import Exports, export_one
from vitriton_bench.report.plan import Plan
from vitriton_bench.report.sides.contenders import Bare, best_of
from vitriton_bench.report.sides.triton import Served, served

_BATCHES = (1, 4, 8, 16)
_CALLERS = 16
_LOOKS = 2


@dataclass(frozen=True, kw_only=True)
class Small:
    """Both sides, ready.

    Attributes:
        bare: decoding and ONNX Runtime in this process.
        server: Triton.
        batch: the best of the former.
        callers: of the latter.
    """

    bare: Bare
    server: Served
    batch: int
    callers: int

    def round(self, analyzer: PerfAnalyzer, payload: Path, plan: Plan) -> dict[str, Any]:
        """Both, one right after the other."""
        alone = self.bare.from_bytes(self.batch, plan.look_s * 1.5)
        point = Point(concurrency=self.callers)
        found = measure(analyzer, self.server.name, point, self.server.target(payload), plan.look_s * 1.5)
        kept = {"images_per_s", "p50_ms", "p99_ms", "split_ms", "busy", "bottleneck", "images_per_batch"}
        return {
            "one process": {"images_per_s": alone.images_per_s},
            "served": {name: value for name, value in found.items() if name in kept},
        }


@contextlib.contextmanager
def measure_small(
    plan: Plan, exports: Exports, images: Sequence[bytes], scratch: Path, cores: int, *, gpu: bool
) -> Iterator[Small]:
    """Exports and serves a ViT-Tiny, in float32."""
    model = str(random_vit("tiny", plan.work / "vit-tiny-random"))
    name = "vit-tiny-random-fp32"
    if name not in exports.names.values():
        export_one(plan, model, exports.repository, name, "fp32", "pooled", lambda text: None, gpu=gpu)
    bare = Bare(exports.repository, name, images, cores, gpu=gpu)
    speeds = best_of(bare.from_bytes, _BATCHES, plan.look_s / 2, _LOOKS)
    batch = max(speeds, key=lambda size: speeds[size])
    with served(exports.repository, name, "pooled", images, scratch / "small") as server:
        yield Small(bare=bare, server=server, batch=batch, callers=_CALLERS)
