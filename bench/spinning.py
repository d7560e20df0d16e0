"""The cost of ONNX Runtime's spinning threads: for a run, and for the images that are decoded after it.

    python bench/spinning.py [--graph out/precision/int8_pooled_encoder/1/model.onnx] [--images examples/photos]

The default graph is exported by bench/precision.py. Sessions that differ only in the spinning of their threads take
turns, each with a run of 4 images and, right after it, the decoding of the photos on all cores. The program prints the
median of both times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
from vitriton.preprocessing import PreprocessSpec, Resize, preprocess

ROWS = 4
SPEC = PreprocessSpec((Resize("bilinear", height=224, width=224),), 224, 224)
WAYS = {
    "default": {},
    "1 ms": {"session.intra_op.spin_duration_us": "1000"},
    "none": {"session.intra_op.allow_spinning": "0"},
}
_REST_S = 0.2  # until the last run's threads sleep


def session(graph: Path, threads: int, entries: dict[str, str]) -> ort.InferenceSession:
    """Makes a session with these configuration entries."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    return ort.InferenceSession(str(graph), sess_options=options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measures, and prints a line for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graph", type=Path, default=Path("out/precision/int8_pooled_encoder/1/model.onnx"))
    parser.add_argument("--images", type=Path, default=Path("examples/photos"))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    photos = [path.read_bytes() for path in sorted(arguments.images.glob("*.jpg"))]
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 224, 224, 3)).astype(np.uint8)
    sessions = {way: session(arguments.graph, cores, entries) for way, entries in WAYS.items()}
    runs: dict[str, list[float]] = {way: [] for way in WAYS}
    decodes: dict[str, list[float]] = {way: [] for way in WAYS}
    with ThreadPoolExecutor(cores) as threads:
        for number in range(arguments.rounds + 1):
            for way, opened in sessions.items():
                time.sleep(_REST_S)
                begun = time.perf_counter()
                opened.run(None, {opened.get_inputs()[0].name: pixels})
                run = time.perf_counter()
                list(threads.map(lambda photo: preprocess(photo, SPEC), photos))
                if number:  # the first round warms up
                    runs[way].append(run - begun)
                    decodes[way].append(time.perf_counter() - run)
    for way in WAYS:
        print(
            f"spinning {way:<8} run {1e3 * statistics.median(runs[way]):6.1f} ms, decoding of {len(photos)} photos "
            f"after it {1e3 * statistics.median(decodes[way]):5.1f} ms"
        )


if __name__ == "__main__":
    main()
