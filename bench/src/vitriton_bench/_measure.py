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
_LOOKS = 3
_MIN_WAVES = 4
_CALL_S = 300.0  # a server that takes longer is stuck


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        repository: a Triton model repository that `vitriton export` wrote.
        name: of the model in it.
        images: encoded.
        concurrency: callers of the server, each with one image at a time.
        rounds: each measures both sides once.
        seconds: of each measurement.
    """

    repository: Path
    name: str
    images: Sequence[bytes]
    concurrency: int
    rounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: the two sides, one right after the other.

    Attributes:
        bare: images/s of ONNX Runtime on ready pixels, at its best batch size.
        served: images/s from encoded bytes to embedding, through Triton.
        p50_s: median latency of a served call.
        p99_s: 99th percentile of it.
    """

    bare: float
    served: float
    p50_s: float
    p99_s: float

    @property
    def ratio(self) -> float:
        """Served, of bare."""
        return self.served / self.bare


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured.

    Attributes:
        by_batch: images/s of ONNX Runtime on ready pixels, by batch size: the median of several short looks.
        batch: its best batch size, which the rounds use.
        rounds: as many as were finished.
    """

    by_batch: dict[int, float]
    batch: int
    rounds: list[Round]

    @property
    def ratio(self) -> float:
        """The median of the rounds'."""
        return statistics.median(entry.ratio for entry in self.rounds)


def run(plan: Plan, progress: Callable[[str], None]) -> Result:
    """Measures; what was measured is returned when it is interrupted.

    Args:
        plan: what to measure.
        progress: is told what comes next.
    """
    bare = _Bare(plan)
    rounds: list[Round] = []
    with (
        TritonServer(plan.repository) as server,
        Client(server.grpc_address, model=plan.name, timeout_s=_CALL_S) as client,
    ):
        progress("warm-up")
        client.embed(plan.images)
        progress(f"ONNX Runtime alone: which of the batch sizes {', '.join(map(str, BATCH_SIZES))} is its best")
        by_batch = bare.by_batch(plan.seconds / 2)
        batch = max(by_batch, key=lambda size: by_batch[size])
        try:
            for number in range(1, plan.rounds + 1):
                progress(f"round {number} of {plan.rounds}")
                speed = bare.images_per_s(batch, plan.seconds)
                rounds.append(_served(client, plan, speed))
        except KeyboardInterrupt:
            progress("interrupted")
    return Result(by_batch=by_batch, batch=batch, rounds=rounds)


class _Bare:
    """ONNX Runtime in this process, with its own default threads, on pixels that are ready."""

    def __init__(self, plan: Plan) -> None:
        graph = plan.repository / f"{plan.name}_pooled_encoder" / "1" / "model.onnx"
        self._session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        spec = plan.repository / f"{plan.name}_preprocess" / "1" / "preprocess.json"
        known = PreprocessSpec.from_json(spec.read_text())
        self._pixels = np.stack([preprocess(image, known) for image in plan.images])  # (N, H, W, 3) uint8

    def by_batch(self, seconds: float) -> dict[int, float]:
        """Throughput by batch size: the sizes take turns, so that a slow moment hits all of them alike."""
        speeds: dict[int, list[float]] = {batch: [] for batch in BATCH_SIZES}
        for _ in range(_LOOKS):
            for batch in BATCH_SIZES:
                speeds[batch].append(self.images_per_s(batch, seconds))
        return {batch: statistics.median(values) for batch, values in speeds.items()}

    def images_per_s(self, batch: int, seconds: float) -> float:
        indices = np.arange(batch) % len(self._pixels)
        pixels = self._pixels[indices]
        images, started = 0, time.perf_counter()
        while images == 0 or time.perf_counter() - started < seconds:
            self._session.run(None, {"pixels": pixels})
            images += batch
        return images / (time.perf_counter() - started)


def _served(client: Client, plan: Plan, bare: float) -> Round:
    """Callers that never pause.

    Answers come in waves, a batch at a time, so a window of fixed length would count up to a wave too many or too few.
    The rate is taken over whole waves instead: between the end of the second and the end of the last complete one.
    """
    answers: list[tuple[float, float]] = []  # when it came, how long it took
    failure: list[BaseException] = []
    enough = threading.Event()

    def call(offset: int) -> None:
        position = offset
        try:
            while not enough.is_set():
                started = time.perf_counter()
                client.embed(plan.images[position % len(plan.images)])
                ended = time.perf_counter()
                answers.append((ended, ended - started))
                position += plan.concurrency
        except BaseException as exc:  # raised again below, in the thread that waits
            failure.append(exc)
            enough.set()

    threads = [threading.Thread(target=call, args=(offset,)) for offset in range(plan.concurrency)]
    for thread in threads:
        thread.start()
    while not enough.wait(plan.seconds) and len(answers) < _MIN_WAVES * plan.concurrency:
        pass
    seen = sorted(answers)  # those that come after the callers were told to stop meet an emptier server
    enough.set()
    for thread in threads:
        thread.join()
    if failure:
        raise failure[0]
    first, last = 2 * plan.concurrency, len(seen) // plan.concurrency * plan.concurrency
    p50, p99 = np.percentile([took for _, took in seen[first:last]], (50, 99))
    elapsed = seen[last - 1][0] - seen[first - 1][0]
    return Round(bare=bare, served=(last - first) / elapsed, p50_s=float(p50), p99_s=float(p99))


def as_json(plan: Plan, result: Result) -> dict[str, Any]:
    """The whole measurement."""
    return {
        "model": plan.name,
        "images": {"count": len(plan.images), "mean_bytes": round(statistics.mean(map(len, plan.images)))},
        "concurrency": plan.concurrency,
        "seconds": plan.seconds,
        "onnxruntime_images_per_s": {str(batch): speed for batch, speed in result.by_batch.items()},
        "onnxruntime_batch_size": result.batch,
        "rounds": [
            {
                "onnxruntime_images_per_s": entry.bare,
                "served_images_per_s": entry.served,
                "ratio": entry.ratio,
                "served_p50_ms": entry.p50_s * 1e3,
                "served_p99_ms": entry.p99_s * 1e3,
            }
            for entry in result.rounds
        ],
        "ratio": result.ratio,
    }
