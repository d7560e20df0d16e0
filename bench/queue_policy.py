"""What a queue policy costs in Triton's dynamic batcher: a waiting request does not start when the instance gets free.

    python bench/queue_policy.py [--rate 0.7] [--seconds 30]

Two models that differ in their queue policy alone, served by a real Triton. Neither computes: an image takes 170 ms of
sleep, so nothing of it depends on the machine, and each 40th batch 600 ms more, as a pause of a machine would. Requests
come at equal intervals, at a part of what the model could do. With a policy (a limit or a timeout) Triton does not hand
a batch to an instance ahead of time, and nothing wakes its batcher up when an instance gets free: only the next request
does, or half a second. After a pause requests then go on in pairs, each with a first that has waited for the second.
Printed are the percentiles of the time of a request, and for how long requests took more than one alone.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from vitriton_server import TritonServer

SERVICE_S = 0.17
PAUSE_S = 0.6
_PAUSED = 40  # each so many batches
_FAST = 1.1  # of a request's time alone
ROUNDS = 2

MODEL = f"""
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    batches = 0

    def execute(self, requests):
        self.batches += 1
        time.sleep({SERVICE_S} * len(requests) + ({PAUSE_S} if self.batches % {_PAUSED} == 0 else 0))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy())]) for r in requests]
"""

POLICIES = {
    "limit and timeout": "default_queue_policy { max_queue_size: 256 default_timeout_microseconds: 60000000 }",
    "none": "",
}


def write_model(repository: Path, name: str, policy: str) -> None:
    """A python model that sleeps."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder.parent / "config.pbtxt").write_text(
        f'name: "{name}" backend: "python" max_batch_size: 32 instance_group {{ kind: KIND_CPU count: 1 }}\n'
        'input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }\n'
        f"dynamic_batching {{ {policy} }}\n"
    )


def drive(client: triton.InferenceServerClient, name: str, interval_s: float, seconds: float) -> list[float]:
    """Milliseconds of each request, in the order in which they were sent."""
    took = [0.0] * int(seconds / interval_s)

    def send(number: int, due: float) -> None:
        tensor = triton.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
        client.infer(name, [tensor])
        took[number] = 1e3 * (time.perf_counter() - due)

    started = time.perf_counter()
    threads = []
    for number in range(len(took)):
        due = started + number * interval_s
        time.sleep(max(0.0, due - time.perf_counter()))
        threads.append(threading.Thread(target=send, args=(number, due)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return took


def slow_s(took: list[float], interval_s: float) -> float:
    """For how many seconds requests took more than one alone."""
    return sum(time_ms > 1e3 * SERVICE_S * _FAST for time_ms in took) * interval_s


def main() -> None:
    """Measures, and prints a line for each round of each policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=0.7, help="Of what the model could do.")
    parser.add_argument("--seconds", type=float, default=30.0, help="Of each measurement.")
    arguments = parser.parse_args()
    interval_s = SERVICE_S / arguments.rate
    with tempfile.TemporaryDirectory() as folder:
        names = {policy: f"model_{number}" for number, policy in enumerate(POLICIES)}
        for policy, name in names.items():
            write_model(Path(folder), name, POLICIES[policy])
        with TritonServer(folder) as server, triton.InferenceServerClient(server.grpc_address) as client:
            for _ in range(ROUNDS):
                for policy, name in names.items():
                    took = drive(client, name, interval_s, arguments.seconds)
                    p50, p90, p99 = np.percentile(took, (50, 90, 99))
                    print(
                        f"queue policy: {policy:<18} p50 {p50:5.0f} ms  p90 {p90:5.0f} ms  p99 {p99:5.0f} ms  "
                        f"slow for {slow_s(took, interval_s):4.1f} s of {arguments.seconds:.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
