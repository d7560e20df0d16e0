"""The gain from precision and graph rewrites end to end: JPEG bytes to embedding, through one real Triton.

    python bench/precision.py [--model out/vit-base-random] [--images examples/photos] [--rounds 41] [--batch 8]

The program exports the model as plain float32 (`--optimize none`), float32, int8 and int8-fast, all pooled, into a
separate repository unless they exist, serves it, and lets the four take turns. It prints the median throughput over the
rounds relative to the plain one, with its 95 % confidence interval.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

from report.median import confidence
from vitriton import Client
from vitriton_export import ExportOptions, export_model
from vitriton_server import TritonServer

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"optimize": "none"},
    "fp32": {},
    "int8": {"precision": "int8"},
    "int8-fast": {"precision": "int8-fast"},
}


def export(model: str, repository: Path) -> None:
    """Exports the missing variants."""
    for name, options in VARIANTS.items():
        if not (repository / f"{name}_pooled").exists():
            print(f"exporting {name}", flush=True)
            export_model(
                ExportOptions(model=model, repository=repository, name=name, outputs="pooled", pooling="cls", **options)
            )


def measure(address: str, images: list[bytes], rounds: int) -> dict[str, list[float]]:
    """Measures images/s of each variant in each round."""
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    clients = {name: Client(address, model=name, timeout_s=600) for name in VARIANTS}
    try:
        for number in range(rounds + 1):
            for name, client in clients.items():
                started = time.perf_counter()
                client.embed(images)
                if number:  # the first round warms up
                    speeds[name].append(len(images) / (time.perf_counter() - started))
    finally:
        for client in clients.values():
            client.close()
    return speeds


def main() -> None:
    """Measures, and prints a line for each variant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="out/vit-base-random", help="written by bench/random_vit.py")
    parser.add_argument("--repository", type=Path, default=Path("out/precision"))
    parser.add_argument("--images", type=Path, default=Path("examples/photos"))
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    export(arguments.model, arguments.repository)
    photos = [path.read_bytes() for path in sorted(arguments.images.glob("*.jpg"))]
    images = list(itertools.islice(itertools.cycle(photos), arguments.batch))
    with TritonServer(arguments.repository) as server:
        speeds = measure(server.grpc_address, images, arguments.rounds)
    for name, own in speeds.items():
        ratios = [speed / plain for speed, plain in zip(own, speeds["plain"], strict=True)]
        low, high = confidence(ratios)
        print(
            f"{name:<10} {statistics.median(ratios):5.2f} x  ({low:.2f} to {high:.2f})  "
            f"{statistics.median(own):6.1f} images/s"
        )


if __name__ == "__main__":
    main()
