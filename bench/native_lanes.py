"""What instances and thread pools do for Triton's native onnxruntime backend on a CPU, in ONNX Runtime alone.

    python bench/native_lanes.py [--graph out/precision/int8_pooled_encoder/1/model.onnx] [--rounds 15] [--callers 16]

The default graph is exported by bench/precision.py. The native backend has a session with a pool of threads for each
instance, unless `--backend-config=onnxruntime,enable-global-threadpool=1` gives one pool to all. Here, the instances
with one pool share their session, as ONNX Runtime in Python has either pools of sessions or one for the process. Each
way has the load of many callers, where all instances run batches at the same time (of 8 images, or as many as the
callers have), and that of 1 caller, whose images Triton gives to the instances in turn. The ways take turns, in reverse
order every second round. The program prints the median ratio to the first way within a round, with its 95 % confidence
interval.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from report.median import confidence
from vitriton_server.backends.onnxruntime import vitriton_onnxruntime_runs as runs

BATCH = 8  # that the batcher prefers on a CPU
OWN_SPIN_US = "1000"  # as in our own backend
Pixels = npt.NDArray[np.uint8]
Compute = Callable[[Pixels], object]


def session(graph: Path, threads: int, spin_us: str | None = None) -> ort.InferenceSession:
    """Makes a session with a pool of this many threads, which spin for ONNX Runtime's default time or for this one."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if spin_us is not None:
        options.add_session_config_entry("session.intra_op.spin_duration_us", spin_us)
    return ort.InferenceSession(str(graph), sess_options=options, providers=["CPUExecutionProvider"])


def native_instance(graph: Path, threads: int) -> Compute:
    """Makes an instance of the native backend, which runs a batch as a whole."""
    opened = session(graph, threads)
    name = opened.get_inputs()[0].name
    return lambda pixels: opened.run(None, {name: pixels})


def own_instance(graph: Path, cores: int) -> Compute:
    """Makes an instance of our own backend, in which each core computes two images of its own at a time."""
    together, alone = session(graph, cores, OWN_SPIN_US), session(graph, 1)
    name = together.get_inputs()[0].name
    run = runs.side_by_side(alone.run, together.run, cores, 2)
    return lambda pixels: run([together.get_outputs()[0].name], {name: pixels})


def many(instances: Sequence[Compute], pixels: Pixels, callers: int, batches: int) -> float:
    """Runs the load of many callers on all instances at once; returns images/s."""
    size = max(1, min(BATCH, callers // len(instances)))
    count = max(1, batches * BATCH // size // len(instances))
    begun = time.perf_counter()
    with ThreadPoolExecutor(len(instances)) as threads:
        for done in [threads.submit(lambda run: [run(pixels[:size]) for _ in range(count)], run) for run in instances]:
            done.result()
    return size * count * len(instances) / (time.perf_counter() - begun)


def single(instances: Sequence[Compute], pixels: Pixels, images: int) -> float:
    """Runs the load of one caller on the instances in turn; returns images/s."""
    begun = time.perf_counter()
    for number in range(images):
        instances[number % len(instances)](pixels[:1])
    return images / (time.perf_counter() - begun)


def main() -> None:
    """Measures, and prints a line for each way and load."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graph", type=Path, default=Path("out/precision/int8_pooled_encoder/1/model.onnx"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--batches", type=int, default=2, help="batches of 8 that each way computes in a round")
    arguments = parser.parse_args()
    cores, graph = len(os.sched_getaffinity(0)), arguments.graph
    ways = {
        "1 instance": [native_instance(graph, cores)],
        f"{cores} instances, a pool for each": [native_instance(graph, cores) for _ in range(cores)],
        f"{cores} instances of 1 thread": [native_instance(graph, 1) for _ in range(cores)],
        f"{cores} instances, one pool": [native_instance(graph, cores)] * cores,
        "our own backend": [own_instance(graph, cores)],
    }
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype(np.uint8)
    loads: dict[str, Callable[[Sequence[Compute]], float]] = {
        f"{arguments.callers} callers": functools.partial(
            many, pixels=pixels, callers=arguments.callers, batches=arguments.batches
        ),
        "1 caller": functools.partial(single, pixels=pixels, images=2 * cores),
    }
    for load, measure in loads.items():
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds + 1):
            for name in ways if number % 2 else reversed(ways):
                speed = measure(ways[name])
                if number:  # the first round warms up
                    speeds[name].append(speed)
        for name, own in speeds.items():
            ratios = [speed / base for speed, base in zip(own, speeds["1 instance"], strict=True)]
            low, high = confidence(ratios)
            print(
                f"{load:<11} {name:<30} {statistics.median(ratios):5.2f} x  ({low:.2f} to {high:.2f})  "
                f"{statistics.median(own):6.1f} images/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
