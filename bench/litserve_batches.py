"""Finds the best batch size for LitServe, which the report must use.

    python bench/litserve_batches.py [--batches 4 8 16 32] [--callers 32] [--rounds 7]

The servers are the report's (`report.sides.litserve_app`) with a ViT-B/16 of random weights, one for each batch size.
They take turns, in reverse order every second round; those not being measured are paused. For each, the program prints
the median ratio within a round to the report's batch size, with its 95 % confidence interval, and the medians of
images/s and p99.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from report.exports.checkpoint import random_vit
from report.exports.exports import PEER_BATCH
from report.median import confidence
from report.rounds.speed import Sample
from report.sides.litserve import LitServe
from report.sides.peer import Peer
from vitriton_bench._payload import find_images

_SECONDS = 2.0  # longer, until each caller has two answers


def main() -> None:
    """Measures, and prints a line for each precision and batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, PEER_BATCH, 32])
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--images", type=Path, default=Path("examples/photos"))
    arguments = parser.parse_args()
    images = [path.read_bytes() for path in find_images(arguments.images)]
    sizes = sorted({*arguments.batches, PEER_BATCH})
    with tempfile.TemporaryDirectory() as folder:
        model = str(random_vit("base", Path(folder) / "model"))
        for dtype in arguments.dtypes:
            found: dict[int, list[Sample]] = {size: [] for size in sizes}
            with contextlib.ExitStack() as stack:
                peers = {}
                for size in sizes:  # one by one: each pauses when it is ready
                    peers[size] = Peer(stack.enter_context(LitServe(model, dtype, "cls", size)), images)
                    peers[size].embed(images[:1])
                for number in range(arguments.rounds):
                    for size in sizes if number % 2 == 0 else sizes[::-1]:
                        found[size].append(peers[size].sample(arguments.callers, _SECONDS))
            for size, samples in found.items():
                ratios = [
                    sample.inputs_per_s / base.inputs_per_s
                    for sample, base in zip(samples, found[PEER_BATCH], strict=True)
                ]
                low, high = confidence(ratios)
                ratio = f"{statistics.median(ratios):.2f} x  ({low:.2f} to {high:.2f})"
                print(
                    f"{dtype}  at most {size:2} in a batch  {ratio}  "
                    f"{statistics.median(sample.inputs_per_s for sample in samples):5.2f} images/s  "
                    f"p99 {statistics.median(sample.p99_ms for sample in samples):5.0f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
