"""Where do results through shared memory win? Measured against a real Triton, with and without in turns.

    python bench/shared_memory.py [--rounds 15] [--seconds 0.3]

The model computes nothing: it answers each image with (tokens, 768) float32. A request is timed until its result is an
array of the caller's own. `_shared_memory.MIN_BYTES` is chosen from what this prints.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from vitriton._shm.regions import Regions
from vitriton._wire.address import parse_address
from vitriton._wire.connection import Connection
from vitriton._wire.grpc import GrpcTransport
from vitriton._wire.transport import InferRequest
from vitriton_server import TritonServer

CALLERS = (1, 4)
CASES = ((1, 25), (1, 50), (1, 100), (1, 197), (2, 197), (4, 197), (8, 197), (32, 197))  # batch, tokens
DIMENSIONS = 768
CALL_S = 60.0

MODEL = f"""
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        images = request.inputs()[0].as_numpy()
        tokens = np.zeros((len(images), int(images[0, 0]), {DIMENSIONS}), np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("last_hidden_state", tokens)])
"""

CONFIG = f"""
backend: "python"
max_batch_size: 32
input {{ name: "image" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "last_hidden_state" data_type: TYPE_FP32 dims: [ -1, {DIMENSIONS} ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""


class Caller:
    """One who sends a request after the other."""

    def __init__(self, transport: GrpcTransport, regions: Regions, batch: int, tokens: int) -> None:
        self._transport = transport
        self._regions = regions
        self._images = [str(tokens).encode()] * batch
        self.byte_size = batch * tokens * DIMENSIONS * 4

    def call(self, shared: bool) -> None:
        """One request; with `shared` it waits until there is a region."""
        lease = self._regions.acquire(self.byte_size) if shared else None
        while shared and lease is None:
            self._regions.settle(CALL_S)
            if self._regions.off:
                raise SystemExit(f"no shared memory: {self._regions.off}")
            lease = self._regions.acquire(self.byte_size)
        request = InferRequest(
            model="nothing",
            input_name="image",
            images=self._images,
            output_name="last_hidden_state",
            timeout_s=None,
            region=lease.region if lease is not None else None,
        )
        reply = self._transport.send(request, CALL_S).result()
        content = reply.data if lease is None else lease.data
        np.frombuffer(content, np.float32).reshape(reply.shape).copy()
        if lease is not None:
            lease.release()

    def run(self, shared: bool, seconds: float, times: list[float]) -> None:
        """Adds what each request took, in seconds."""
        ends = time.perf_counter() + seconds
        while (started := time.perf_counter()) < ends:
            self.call(shared)
            times.append(time.perf_counter() - started)


def measure(callers: list[Caller], rounds: int, seconds: float) -> dict[bool, float]:
    """The median of a request's time in seconds, by whether it is shared."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for shared in (False, True):
        for caller in callers:
            caller.call(shared)
    for number in range(2 * rounds):
        shared = bool(number % 2)
        threads = [threading.Thread(target=caller.run, args=(shared, seconds, times[shared])) for caller in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {shared: statistics.median(values) for shared, values in times.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each of the two in a round")
    arguments = parser.parse_args()
    print(f"{'callers':>7} {'batch':>5} {'kB':>7} {'reply ms':>9} {'shared ms':>9} {'gain':>6}")
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "nothing" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        (version.parent / "config.pbtxt").write_text(CONFIG)
        with TritonServer(folder) as server:
            for count in CALLERS:
                for batch, tokens in CASES:
                    transport = GrpcTransport(parse_address(server.grpc_address), Connection())
                    regions = Regions(transport, min_bytes=0)
                    callers = [Caller(transport, regions, batch, tokens) for _ in range(count)]
                    took = measure(callers, arguments.rounds, arguments.seconds)
                    regions.close()
                    transport.close()
                    print(
                        f"{count:>7} {batch:>5} {callers[0].byte_size / 1000:>7.0f} {took[False] * 1e3:>9.2f} "
                        f"{took[True] * 1e3:>9.2f} {took[False] / took[True]:>6.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
