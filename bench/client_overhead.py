"""What the client costs: `embed` against a hand-written tritonclient loop, on a model that computes nothing.

    python bench/client_overhead.py [--rounds 60] [--seconds 0.25]

Both send the same encoded images in the same batches with the same number of callers. They take turns, and each goes
first in every other round. The program prints the median ratio of their throughputs, with its 95 % confidence interval.
It needs many rounds, because the server itself varies by up to a factor of two between quarters of a second. At the end
it compares the time of `import vitriton`, without and with a Client, with that of `import tritonclient.grpc`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from report.median import confidence
from vitriton import AsyncClient, Client
from vitriton._wire.channel import CHANNEL_OPTIONS
from vitriton_server import TritonServer

T = TypeVar("T")

IMAGE = bytes(50_000)
CASES = ((1, 1), (1, 4), (1, 16), (8, 4))
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        batch = request.inputs()[0].shape()[0]
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.zeros((batch, 768), np.float32))])
"""
CONFIG = """
backend: "python"
max_batch_size: 32
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "embedding" data_type: TYPE_FP32 dims: [ 768 ] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""
IMPORTS = ("import vitriton", "import vitriton; vitriton.Client('localhost', model='m')")


@contextmanager
def server() -> Iterator[TritonServer]:
    """Starts a Triton with the model `noop`."""
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "noop_pooled" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        (version.parent / "config.pbtxt").write_text(CONFIG)
        with TritonServer(folder) as running:
            yield running


def threads(call: Callable[[], object], callers: int, seconds: float) -> float:
    """Measures the calls a second of several threads."""
    end = time.monotonic() + seconds
    counts = [0] * callers

    def work(caller: int) -> None:
        while time.monotonic() < end:
            call()
            counts[caller] += 1

    workers = [threading.Thread(target=work, args=(caller,)) for caller in range(callers)]
    start = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - start)


async def tasks(call: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    """Measures the calls a second of several tasks."""
    end = time.monotonic() + seconds
    counts = [0] * callers

    async def work(caller: int) -> None:
        while time.monotonic() < end:
            await call()
            counts[caller] += 1

    start = time.monotonic()
    await asyncio.gather(*(work(caller) for caller in range(callers)))
    return sum(counts) / (time.monotonic() - start)


def in_turns(turn: int, first: T, second: T) -> tuple[T, T]:
    """Both arguments, in reverse order every other turn."""
    return (first, second) if turn % 2 else (second, first)


def request(batch: int) -> dict[str, Any]:
    """The arguments that a hand-written loop makes for each call."""
    images = tritonclient.grpc.InferInput("image", [batch, 1], "BYTES")
    images.set_data_from_numpy(np.array([[IMAGE]] * batch, dtype=np.object_))
    return {"inputs": [images], "outputs": [tritonclient.grpc.InferRequestedOutput("embedding")]}


def measure_threads(running: TritonServer, batch: int, callers: int, rounds: int, seconds: float) -> list[float]:
    """The ratio of our throughput to the hand-written loop's, for each round."""
    ratios = []
    by_hand = tritonclient.grpc.InferenceServerClient(running.grpc_address, channel_args=list(CHANNEL_OPTIONS))
    with Client(running.grpc_address, model="noop") as client:

        def hand() -> object:
            return by_hand.infer("noop_pooled", **request(batch)).as_numpy("embedding")

        def ours() -> object:
            return client.embed([IMAGE] * batch)

        for turn in range(rounds + 1):
            rates = {call: threads(call, callers, seconds) for call in in_turns(turn, hand, ours)}
            ratios.append(rates[ours] / rates[hand])
    by_hand.close()
    return ratios[1:]


async def measure_tasks(running: TritonServer, batch: int, callers: int, rounds: int, seconds: float) -> list[float]:
    """The ratio of our throughput to the hand-written loop's, for each round."""
    ratios = []
    by_hand = tritonclient.grpc.aio.InferenceServerClient(running.grpc_address, channel_args=list(CHANNEL_OPTIONS))
    async with AsyncClient(running.grpc_address, model="noop") as client:

        async def hand() -> object:
            reply = await by_hand.infer("noop_pooled", **request(batch))
            return reply.as_numpy("embedding")

        async def ours() -> object:
            return await client.embed([IMAGE] * batch)

        for turn in range(rounds + 1):
            rates = {call: await tasks(call, callers, seconds) for call in in_turns(turn, hand, ours)}
            ratios.append(rates[ours] / rates[hand])
    await by_hand.close()
    return ratios[1:]


def import_seconds(code: str) -> float:
    """The time of a new interpreter that runs `code`, minus that of one that runs nothing."""
    times = []
    for program in (code, "pass"):
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", program], check=True)
        times.append(time.monotonic() - start)
    return times[0] - times[1]


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.25)
    options = parser.parse_args()
    with server() as running:
        for batch, callers in CASES:
            arguments = (running, batch, callers, options.rounds, options.seconds)
            for name, ratios in (
                ("Client", measure_threads(*arguments)),
                ("AsyncClient", asyncio.run(measure_tasks(*arguments))),
            ):
                low, high = confidence(ratios)
                print(
                    f"{name:11} batch {batch:2}, {callers:2} callers: {statistics.median(ratios):.2f} x tritonclient "
                    f"({low:.2f} to {high:.2f})",
                    flush=True,
                )
    for code in IMPORTS:
        ratios = [import_seconds(code) / import_seconds("import tritonclient.grpc") for _ in range(9)]
        low, high = confidence(ratios)
        print(f"{code}: {statistics.median(ratios):.2f} x import tritonclient.grpc ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
