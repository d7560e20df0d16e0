"""The gain from letting each core compute its own images, instead of all cores one image together.

    python bench/cores.py [--graph out/precision/int8_pooled_encoder/1/model.onnx] [--batch 8] [--rounds 25]

The default graph is exported by bench/precision.py. The ways take turns, in reverse order every second round, each with
the whole batch: all cores together, 4 images at a time; and a run on each core in parallel, with a given
number of images at a time. The program prints the median ratio to the first way within a round, with its 95 %
confidence interval, images/s, and the largest difference of the embeddings from the first way's.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from report.median import confidence

TOGETHER = 4
ALONE = (1, 2, 4)
Embeddings = npt.NDArray[np.float32]


def session(graph: Path, threads: int) -> ort.InferenceSession:
    """Makes a session with this number of threads, which spin as the backend's do."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    return ort.InferenceSession(str(graph), sess_options=options, providers=["CPUExecutionProvider"])


def way(opened: ort.InferenceSession, pixels: npt.NDArray[np.uint8], rows: int, side_by_side: int) -> Embeddings:
    """The embeddings of all pixels, computed `rows` at a time in `side_by_side` threads."""
    name = opened.get_inputs()[0].name
    parts = [pixels[start : start + rows] for start in range(0, len(pixels), rows)]
    with ThreadPoolExecutor(side_by_side) as threads:
        made: Embeddings = np.concatenate(list(threads.map(lambda part: opened.run(None, {name: part})[0], parts)))
    return made


def main() -> None:
    """Measures, and prints a line for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graph", type=Path, default=Path("out/precision/int8_pooled_encoder/1/model.onnx"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.batch, 224, 224, 3)).astype(np.uint8)
    together, alone = session(arguments.graph, cores), session(arguments.graph, 1)
    ways: dict[str, Callable[[], Embeddings]] = {f"together, {TOGETHER}": lambda: way(together, pixels, TOGETHER, 1)}
    for rows in ALONE:
        ways[f"each alone, {rows}"] = functools.partial(way, alone, pixels, rows, cores)
    made = {name: run() for name, run in ways.items()}
    first = next(iter(ways))
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds):
        for name in ways if number % 2 else reversed(ways):
            begun = time.perf_counter()
            ways[name]()
            took[name].append(time.perf_counter() - begun)
    for name in ways:
        ratios = [base / own for base, own in zip(took[first], took[name], strict=True)]
        low, high = confidence(ratios)
        print(
            f"{name:<14} {statistics.median(ratios):5.2f} x  ({low:.2f} to {high:.2f})  "
            f"{arguments.batch / statistics.median(took[name]):6.1f} images/s  "
            f"max abs difference {np.abs(made[name] - made[first]).max():.0e}"
        )


if __name__ == "__main__":
    main()
