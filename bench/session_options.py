"""What entries of ONNX Runtime's session configuration gain: a run on one core, with and without each entry.

    python bench/session_options.py [--graph out/precision/int8_pooled_encoder/1/model.onnx] KEY=VALUE ...

The default graph is exported by bench/precision.py. A session without entries and one for each entry take turns, in
reverse order every second round, each with a run of the same images on one core. The program prints the median ratio of
the speeds within a round, with its 95 % confidence interval, and the largest difference of the embeddings. Time is the
process's own on the CPU, so that other programs hardly change it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from report.median import confidence

ROWS = 2  # that a core computes at a time


def session(graph: Path, entry: str) -> ort.InferenceSession:
    """Makes a session of one thread with this entry, KEY=VALUE; with none, if it is empty."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if entry:
        options.add_session_config_entry(*entry.split("=", 1))
    return ort.InferenceSession(str(graph), sess_options=options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measures, and prints a line for each entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graph", type=Path, default=Path("out/precision/int8_pooled_encoder/1/model.onnx"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("entries", nargs="+", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 224, 224, 3)).astype(np.uint8)
    sessions = {entry: session(arguments.graph, entry) for entry in ("", *arguments.entries)}
    made = {entry: opened.run(None, {"pixels": pixels})[0] for entry, opened in sessions.items()}
    took: dict[str, list[float]] = {entry: [] for entry in sessions}
    for number in range(arguments.rounds):
        for entry in sessions if number % 2 else reversed(sessions):
            begun = time.process_time()
            sessions[entry].run(None, {"pixels": pixels})
            took[entry].append(time.process_time() - begun)
    for entry in arguments.entries:
        ratios = [base / own for base, own in zip(took[""], took[entry], strict=True)]
        low, high = confidence(ratios)
        print(
            f"{entry:<44} {statistics.median(ratios):5.2f} x  ({low:.2f} to {high:.2f})  "
            f"max abs difference {np.abs(made[entry] - made['']).max():.0e}"
        )


if __name__ == "__main__":
    main()
