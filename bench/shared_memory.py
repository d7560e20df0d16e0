"""What do results through shared memory bring a caller? A real encoder, all tokens, with and without in turns.

    python bench/shared_memory.py [--rounds 15] [--seconds 3]

ViT-B/16 and ViT-Ti/16 of random weights, int8 (the fastest on a CPU, so that the way of the result weighs most), called
with `Client.embed(pool=False)` by 1 and by 16 callers. Prints the ratio of the images per second, shared memory over
replies, its median over the rounds and the 95 % interval of that.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path

from vitriton import Client, Options
from vitriton_bench._checkpoint import random_vit
from vitriton_export import ExportOptions, export_model
from vitriton_server import TritonServer

CALLERS = (1, 16)
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def rate(client: Client, images: list[bytes], callers: int, seconds: float) -> float:
    """Images per second of `callers` threads that each send one image after the other."""
    done = [0] * callers
    ends = time.perf_counter() + seconds

    def call(caller: int) -> None:
        while time.perf_counter() < ends:
            client.embed(images[(caller + done[caller]) % len(images)], pool=False)
            done[caller] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by resampling."""
    draws = sorted(statistics.median(random.choices(values, k=len(values))) for _ in range(2000))
    return draws[50], draws[-51]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of the two in a round")
    arguments = parser.parse_args()
    images = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        for size in ("base", "tiny"):
            checkpoint = random_vit(size, Path(folder) / size)
            export_model(
                ExportOptions(
                    model=str(checkpoint), repository=repository, name=size, outputs="unpooled", precision="int8"
                )
            )
        with TritonServer(repository) as server:
            print(f"{'model':>6} {'callers':>7} {'reply/s':>8} {'shared/s':>8} {'ratio':>6}")
            for size in ("base", "tiny"):
                clients = {
                    shared: Client(server.grpc_address, model=size, options=Options(shared_memory=shared))
                    for shared in (False, True)
                }
                for callers in CALLERS:
                    rates: dict[bool, list[float]] = {False: [], True: []}
                    for number in range(-1, arguments.rounds):
                        for shared in (False, True) if number % 2 else (True, False):
                            measured = rate(clients[shared], images, callers, arguments.seconds)
                            if number >= 0:
                                rates[shared].append(measured)
                    ratios = [shared / reply for reply, shared in zip(rates[False], rates[True], strict=True)]
                    low, high = interval(ratios)
                    print(
                        f"{size:>6} {callers:>7} {statistics.median(rates[False]):>8.1f} "
                        f"{statistics.median(rates[True]):>8.1f} {statistics.median(ratios):>6.3f} "
                        f"({low:.3f}-{high:.3f})",
                        flush=True,
                    )
                for client in clients.values():
                    client.close()


if __name__ == "__main__":
    main()
