"""The measurement: rounds in which the served model and bare ONNX Runtime take turns, so that noise hits both."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from vitriton import Client
from vitriton.preprocessing import PreprocessSpec, preprocess
from vitriton_server import TritonServer

BATCH_SIZES = (1, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        repository: a Triton model repository that `vitriton export` wrote.
        name: of the model in it.
        images: encoded.
        concurrency: callers of the server, each with one image at a time.
        rounds: each measures everything once.
        seconds: of each measurement.
    """

    repository: Path
    name: str
    images: Sequence[bytes]
    concurrency: int
    rounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Served:
    """One measurement of the server.

    Attributes:
        images_per_s: throughput.
        p50_s: median latency of a call.
        p99_s: 99th percentile of it.
    """

    images_per_s: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round.

    Attributes:
        served: from encoded bytes to embedding, through Triton.
        bare: images/s of ONNX Runtime on ready pixels, by batch size.
    """

    served: Served
    bare: dict[int, float]

    @property
    def ratio(self) -> float:
        """Served, of bare at its best batch size."""
        return self.served.images_per_s / max(self.bare.values())


def run(plan: Plan, progress: Callable[[str], None]) -> list[Round]:
    """Measures; what was measured is returned when it is interrupted.

    Args:
        plan: what to measure.
        progress: is told what comes next.
    """
    bare = _Bare(plan)
    rounds: list[Round] = []
    with (
        TritonServer(plan.repository) as server,
        Client(server.grpc_address, model=plan.name, timeout_s=None) as client,
    ):
        progress("warm-up")
        client.embed(plan.images)
        for batch in BATCH_SIZES:
            bare.images_per_s(batch, 0)
        try:
            for number in range(1, plan.rounds + 1):
                speeds = {}
                for batch in BATCH_SIZES:
                    progress(f"round {number} of {plan.rounds}: ONNX Runtime alone, batch {batch}")
                    speeds[batch] = bare.images_per_s(batch, plan.seconds / len(BATCH_SIZES))
                progress(f"round {number} of {plan.rounds}: served, concurrency {plan.concurrency}")
                rounds.append(Round(served=_served(client, plan), bare=speeds))
        except KeyboardInterrupt:
            progress("interrupted")
    return rounds


def median_ratio(rounds: Sequence[Round]) -> float:
    """Of the rounds."""
    return statistics.median(entry.ratio for entry in rounds)


class _Bare:
    """ONNX Runtime in this process, with its own default threads, on pixels that are ready."""

    def __init__(self, plan: Plan) -> None:
        graph = plan.repository / f"{plan.name}_pooled_encoder" / "1" / "model.onnx"
        self._session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        spec = plan.repository / f"{plan.name}_preprocess" / "1" / "preprocess.json"
        known = PreprocessSpec.from_json(spec.read_text())
        self._pixels = np.stack([preprocess(image, known) for image in plan.images])  # (N, H, W, 3) uint8

    def images_per_s(self, batch: int, seconds: float) -> float:
        indices = np.arange(batch) % len(self._pixels)
        pixels = self._pixels[indices]
        images, started = 0, time.perf_counter()
        while images == 0 or time.perf_counter() - started < seconds:
            self._session.run(None, {"pixels": pixels})
            images += batch
        return images / (time.perf_counter() - started)


def _served(client: Client, plan: Plan) -> Served:
    latencies: list[float] = []
    end = time.perf_counter() + plan.seconds
    failure: list[BaseException] = []

    def call(offset: int) -> None:
        position = offset
        try:
            while time.perf_counter() < end:
                started = time.perf_counter()
                client.embed(plan.images[position % len(plan.images)])
                latencies.append(time.perf_counter() - started)
                position += plan.concurrency
        except BaseException as exc:  # raised again below, in the thread that waits
            failure.append(exc)

    started = time.perf_counter()
    threads = [threading.Thread(target=call, args=(offset,)) for offset in range(plan.concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failure:
        raise failure[0]
    elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(latencies, (50, 99))
    return Served(images_per_s=len(latencies) / elapsed, p50_s=float(p50), p99_s=float(p99))


def as_json(plan: Plan, rounds: Sequence[Round]) -> dict[str, Any]:
    """The whole measurement."""
    return {
        "model": plan.name,
        "images": {"count": len(plan.images), "mean_bytes": round(statistics.mean(map(len, plan.images)))},
        "concurrency": plan.concurrency,
        "seconds": plan.seconds,
        "rounds": [
            {
                "served": {
                    "images_per_s": entry.served.images_per_s,
                    "p50_ms": entry.served.p50_s * 1e3,
                    "p99_ms": entry.served.p99_s * 1e3,
                },
                "onnxruntime_images_per_s": {str(batch): speed for batch, speed in entry.bare.items()},
                "ratio": entry.ratio,
            }
            for entry in rounds
        ],
        "median_ratio": median_ratio(rounds),
    }
