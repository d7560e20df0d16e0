"""Counts how often Triton's dynamic batcher leaves a request waiting although an instance is free.

    python bench/wake_ups.py [--times 100]

A real Triton serves models that differ only in their queue policy. While one request is in the instance, one or two
more arrive, and then none. They should start when the first ends. With a queue policy (a limit, a timeout) Triton gives
no batch to an instance ahead of time, and it wakes the batcher when the first request ends, but just before it marks
the instance as free. If the batcher runs first, it sees no free instance, and waits for the next request, or for half a
second. By default (SCHED_OTHER) the kernel prefers a woken thread to the one that woke it; with SCHED_BATCH, which
`vitriton serve` sets for Triton, it does not.

One model computes on all cores in the `onnxruntime` backend, as an encoder does, once with one instance and once with
two that share a session; the other sleeps and leaves the cores idle, so that one of them can run the batcher at once.
The program counts the trials that took half a second too long.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper
from vitriton._wire.channel import CHANNEL_OPTIONS
from vitriton_server import TritonServer

SHAPE = (256, 1024)  # the shape of a request
LATE_S = 0.25  # Triton's batcher looks again after 0.5 s
_PRODUCTS = 8
_ROUND = 10  # trials in a turn

SLEEPS = """
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05 * len(requests))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy())]) for r in requests]
"""

POLICIES = {
    "none": "",
    "limit": "default_queue_policy { max_queue_size: 256 }",
    "timeout": "default_queue_policy { default_timeout_microseconds: 60000000 }",
}
# kind of model → (backend, number of instances)
LOADS = {"computes": ("onnxruntime", 1), "computes, 2 instances": ("onnxruntime", 2), "sleeps": ("python", 1)}
SCHEDULING = {"SCHED_OTHER": os.SCHED_OTHER, "SCHED_BATCH": os.SCHED_BATCH}


def write_model(repository: Path, name: str, backend: str, instances: int, policy: str) -> None:
    """Writes a model for requests of 1 MiB."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    tensor = f"data_type: TYPE_FP32 dims: [{', '.join(map(str, SHAPE))}]"
    (folder.parent / "config.pbtxt").write_text(
        f'name: "{name}" backend: "{backend}" max_batch_size: 8\n'
        f"instance_group {{ kind: KIND_CPU count: {instances} }}\n"
        'parameters { key: "share_session_between_instances" value { string_value: "true" } }\n'
        f'input {{ name: "x" {tensor} }} output {{ name: "y" {tensor} }}\n'
        f"dynamic_batching {{ {policy} }}\n"
    )
    if backend == "python":
        (folder / "model.py").write_text(SLEEPS)
        return
    names = ["x", *(f"product_{number}" for number in range(1, _PRODUCTS)), "y"]
    side = SHAPE[1]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [a, "identity"], [b]) for a, b in itertools.pairwise(names)],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *SHAPE])],
        [numpy_helper.from_array(np.eye(side, dtype=np.float32), "identity")],
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")


def schedule(pid: int, policy: int) -> None:
    """Sets the kernel's scheduling policy of all threads of a process."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))


def times_s(
    client: triton.InferenceServerClient, name: str, requests: int, between_s: float
) -> npt.NDArray[np.float64]:
    """The seconds that each request took; requests are sent at equal intervals."""
    took = np.zeros(requests)

    def send(number: int) -> None:
        tensor = triton.InferInput("x", [1, *SHAPE], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, *SHAPE), np.float32))
        started = time.perf_counter()
        client.infer(name, [tensor])
        took[number] = time.perf_counter() - started

    threads = [threading.Thread(target=send, args=(number,)) for number in range(requests)]
    for thread in threads:
        thread.start()
        time.sleep(between_s)
    for thread in threads:
        thread.join()
    return took


def main() -> None:
    """Measures in rounds that take turns, and prints a line for each model, policy and scheduling."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=100, help="number of trials of each case")
    times = parser.parse_args().times
    cases = list(itertools.product(LOADS, POLICIES))
    models = {case: f"model_{number}" for number, case in enumerate(cases)}
    late: Counter[tuple[str, str, int]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for (load, policy), name in models.items():
            write_model(Path(folder), name, *LOADS[load], POLICIES[policy])
        with (
            TritonServer(folder) as server,
            triton.InferenceServerClient(server.grpc_address, channel_args=list(CHANNEL_OPTIONS)) as client,
        ):
            alone_s = {
                name: float(np.median([times_s(client, name, 1, 0.0) for _ in range(5)])) for name in models.values()
            }
            for done in range(0, times, _ROUND):
                for scheduling, kernel_policy in SCHEDULING.items():
                    schedule(server.pid, kernel_policy)
                    for name in models.values():
                        for requests in (2, 3):
                            for _ in range(min(_ROUND, times - done)):
                                took = times_s(client, name, requests, alone_s[name] / 4)
                                late[name, scheduling, requests] += took.max() > requests * alone_s[name] + LATE_S
    for (load, policy), name in models.items():
        for scheduling in SCHEDULING:
            one, two = (late[name, scheduling, requests] for requests in (2, 3))
            print(
                f"{load:<21}  queue policy {policy:<7}  {scheduling}  late with one waiting {one:3}, with two {two:3}, "
                f"of {times}   ({1e3 * alone_s[name]:.0f} ms alone)"
            )


if __name__ == "__main__":
    main()
