"""Measures how long requests take at a steady load, with one instance of the encoder and with the default.

    python bench/steady_load.py CHECKPOINT [--windows 5] [--seconds 20] [--load 0.7]

With one instance, Triton's batcher can miss that the instance has become free, and leaves requests waiting for half a
second (`wake_ups.py`). The program exports the checkpoint twice, for the CPU, and serves both; the two take turns. In
each window it measures the time of a request alone, the peak with 16 callers, and then requests at equal intervals, at
a share of that peak, which do not wait for earlier answers. It prints p99 / alone of each window, and the requests that
took 0.4 s longer than the median.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from vitriton._wire.channel import CHANNEL_OPTIONS
from vitriton_server import TritonServer

PHOTO = Path(__file__).parents[1] / "examples/photos/cat.jpg"
SIDES = {"one instance": ["--instances", "1"], "default": []}
CALLERS = 16
ALONE = 10  # requests
LATE_S = 0.4


class Side:
    """A served export."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self._client = client
        self._input = triton.InferInput("image", [1, 1], "BYTES")
        self._input.set_data_from_numpy(np.array([[PHOTO.read_bytes()]], object))

    def request_s(self) -> float:
        """Returns the seconds that one request takes."""
        started = time.perf_counter()
        self._client.infer("m_pooled", [self._input])
        return time.perf_counter() - started

    def alone_s(self) -> float:
        """Returns the median time of requests that come one at a time, in seconds."""
        return float(np.median([self.request_s() for _ in range(ALONE)]))

    def peak(self, seconds: float) -> float:
        """Returns the images/s with callers that never pause."""
        end = time.perf_counter() + seconds

        def call(_: int) -> int:
            done = 0
            while time.perf_counter() < end:
                self.request_s()
                done += 1
            return done

        started = time.perf_counter()
        with ThreadPoolExecutor(CALLERS) as pool:
            done = sum(pool.map(call, range(CALLERS)))
        return done / (time.perf_counter() - started)

    def steady_s(self, rate: float, seconds: float) -> npt.NDArray[np.float64]:
        """Returns the seconds of each request, from when it is due."""
        took: list[float] = []

        def send(due: float) -> None:
            self.request_s()
            took.append(time.perf_counter() - due)

        start, threads = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            threads.append(threading.Thread(target=send, args=(due,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return np.array(took)


def main() -> None:
    """Measures windows that take turns, and prints a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each part of a window")
    parser.add_argument("--load", type=float, default=0.7, help="share of the peak")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, options in SIDES.items():
            repository = Path(folder) / name.replace(" ", "-")
            command = [
                sys.executable,
                "-m",
                "vitriton",
                "export",
                arguments.checkpoint,
                "--repository",
                str(repository),
            ]
            subprocess.run([*command, "--name", "m", "--outputs", "pooled", "--device", "cpu", *options], check=True)
            server = stack.enter_context(TritonServer(repository))
            client = triton.InferenceServerClient(server.grpc_address, channel_args=list(CHANNEL_OPTIONS))
            sides[name] = Side(stack.enter_context(client))
        for window in range(arguments.windows):
            for name in list(sides)[:: 1 if window % 2 else -1]:
                side = sides[name]
                alone_s = side.alone_s()
                peak = side.peak(arguments.seconds)
                took = side.steady_s(arguments.load * peak, arguments.seconds)
                p50, p99 = np.percentile(took, [50, 99])
                late = int((took > p50 + LATE_S).sum())
                print(
                    f"window {window + 1}  {name:<12}  alone {1e3 * alone_s:4.0f} ms  peak {peak:5.1f} images/s  "
                    f"p50 {1e3 * p50:4.0f}  p99 {1e3 * p99:4.0f} ms  p99 / alone {p99 / alone_s:.2f}  "
                    f"late {late} of {len(took)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
