"""Where one server ends on a machine with many cores, from measurements on this one.

    python bench/ceiling.py [--seconds 3] [--rounds 5] [--json FILE]

1. The interpreter's lock: how long `preprocess` holds it for an image, which bounds a process whatever the cores are.
2. The path: images/s and CPU time for an image, by process, through a real Triton whose encoder costs nothing: with 1,
   2 and 4 processes of the preprocess step, with pixels that the caller has prepared, with 32 images in a request.
3. The model of `ceiling_model.py`: what it says for this machine, beside what was measured on one core and on all, and
   its table for 2 to 64 cores.

The ways take turns, in reverse order every second round. The program prints medians; the ratio of two ways is the
median of the rounds' ratios, with its 95 % confidence interval.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import dataclasses
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
from ceiling_model import Costs, bound, instances_for, rate
from client_overhead import tasks
from PIL import Image, _webp
from report.median import confidence
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from vitriton._wire.channel import CHANNEL_OPTIONS
from vitriton.preprocessing import PreprocessSpec, Resize, preprocess
from vitriton_server import TritonServer

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "rocket.jpg"
SPEC = PreprocessSpec((Resize("bilinear", height=224, width=224),), 224, 224)
SMALL, LARGE = (500, 375), (4000, 3000)
NAME = "free"
CALLERS = 32
MANY = 32  # images in a request
CORES = (2, 4, 8, 16, 32, 64)
ENCODERS = (200.0, 1000.0, 2500.0, 5000.0, 10_000.0)  # images/s
_TICKS = os.sysconf("SC_CLK_TCK")

FREE_ENCODER = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        batch = request.inputs()[0].shape()[0]
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.zeros((batch, 768), np.float32))])
"""
ENCODER_CONFIG = """
backend: "python"
max_batch_size: 32
input { name: "pixels" data_type: TYPE_UINT8 dims: [ 224, 224, 3 ] }
output { name: "embedding" data_type: TYPE_FP32 dims: [ 768 ] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""
STEP_CONFIG = """
backend: "python"
max_batch_size: 32
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "pixels" data_type: TYPE_UINT8 dims: [ 224, 224, 3 ] }
instance_group { count: %d kind: KIND_CPU }
dynamic_batching { }
"""
ENSEMBLE_CONFIG = """
platform: "ensemble"
max_batch_size: 32
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "embedding" data_type: TYPE_FP32 dims: [ 768 ] }
ensemble_scheduling {
  step {
    model_name: "free_preprocess" model_version: -1
    input_map { key: "image" value: "image" } output_map { key: "pixels" value: "pixels" }
  }
  step {
    model_name: "free_pooled_encoder" model_version: -1
    input_map { key: "pixels" value: "pixels" } output_map { key: "embedding" value: "embedding" }
  }
}
"""


def encoded(size: tuple[int, int], kind: str) -> bytes:
    """Returns a photo of this size as a file."""
    file = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(file, kind, quality=90)
    return file.getvalue()


@dataclass
class Held:
    """The time that `preprocess` takes for an image, in milliseconds.

    Attributes:
        image: the kind and the size of the image.
        total_ms: the CPU time of one thread.
        free_ms: the part in which Pillow has released the interpreter's lock: decoding and resizing.
    """

    image: str
    total_ms: float
    free_ms: float

    @property
    def held_ms(self) -> float:
        """The part that holds the lock."""
        return self.total_ms - self.free_ms


class _Timed:
    """A decoder of Pillow whose decoding is timed: the C code releases the lock all the while."""

    def __init__(self, decoder: Any, clock: _Clock) -> None:
        self._decoder = decoder
        self._clock = clock

    def decode(self, data: bytes) -> Any:
        """Decodes a part of a file; most formats."""
        return self._clock.timed(self._decoder.decode, data)

    def get_next(self) -> Any:
        """Decodes a frame of a WebP file."""
        return self._clock.timed(self._decoder.get_next)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class _Clock:
    """Adds up the CPU time of calls."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function."""
        begun_s = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self.spent_s += time.thread_time() - begun_s


@contextmanager
def timed_parts(clock: _Clock) -> Iterator[_Clock]:
    """Times what Pillow computes without the lock: its decoders, and its resize with some microseconds of Python."""
    resize = Image.Image.resize

    def timed(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: _Timed(make(*given, **named), clock)

    with (
        mock.patch.object(Image, "_getdecoder", timed(Image._getdecoder)),
        mock.patch.object(_webp, "WebPAnimDecoder", timed(_webp.WebPAnimDecoder)),
        mock.patch.object(Image.Image, "resize", lambda *given, **named: clock.timed(partial(resize, *given, **named))),
    ):
        yield clock


def keep_memory() -> None:
    """Makes malloc keep freed memory, as the step does: fresh pages would be counted with the lock."""
    mallopt = ctypes.CDLL(None).mallopt
    for name, size in {-3: 16 << 20, -1: 32 << 20}.items():  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        mallopt(name, size)


def held(size: tuple[int, int], kind: str, rounds: int) -> Held:
    """Measures one kind of image on one thread."""
    data = encoded(size, kind)
    times = max(1, 40_000_000 // (size[0] * size[1] * 10))
    totals, parts = [], []
    for number in range(rounds + 1):
        with timed_parts(_Clock()) as clock:
            begun_s = time.thread_time()
            for _ in range(times):
                preprocess(data, SPEC)
            total_s = time.thread_time() - begun_s
        if number:  # the first round warms up
            totals.append(1000 * total_s / times)
            parts.append(1000 * clock.spent_s / times)
    free = [part / total for part, total in zip(parts, totals, strict=True)]
    total_ms = statistics.median(totals)
    return Held(f"{kind} {size[0]} x {size[1]}", total_ms, total_ms * statistics.median(free))


def write_repository(folder: Path, instances: int) -> None:
    """Writes an export whose encoder returns zeros; its first step is that of every export."""
    import vitriton.preprocessing
    import vitriton_export

    step = folder / f"{NAME}_preprocess" / "1"
    shutil.copytree(Path(vitriton.preprocessing.__file__).parent, step / "vitriton_preprocessing")
    shutil.copy(Path(vitriton_export.__file__).parent / "triton" / "preprocess" / "model.py", step)
    (step / "preprocess.json").write_text(SPEC.to_json())
    (step.parent / "config.pbtxt").write_text(STEP_CONFIG % instances)
    encoder = folder / f"{NAME}_pooled_encoder" / "1"
    encoder.mkdir(parents=True)
    (encoder / "model.py").write_text(FREE_ENCODER)
    (encoder.parent / "config.pbtxt").write_text(ENCODER_CONFIG)
    ensemble = folder / f"{NAME}_pooled" / "1"
    ensemble.mkdir(parents=True)
    (ensemble.parent / "config.pbtxt").write_text(ENSEMBLE_CONFIG)


def request(model: str, name: str, datatype: str, shape: Sequence[int], content: bytes) -> pb.ModelInferRequest:
    """Returns a request that costs its sender nothing but the sending."""
    made = pb.ModelInferRequest(model_name=model, raw_input_contents=[content])
    made.inputs.add(name=name, datatype=datatype, shape=shape)
    made.outputs.add(name="embedding")
    return made


def with_files(images: int) -> pb.ModelInferRequest:
    """Returns a request with encoded images."""
    data = encoded(SMALL, "JPEG")
    content = (len(data).to_bytes(4, "little") + data) * images
    return request(f"{NAME}_pooled", "image", "BYTES", (images, 1), content)


def with_pixels(images: int) -> pb.ModelInferRequest:
    """Returns a request with pixels that the caller has prepared."""
    pixels = bytes(preprocess(encoded(SMALL, "JPEG"), SPEC).tobytes()) * images
    return request(f"{NAME}_pooled_encoder", "pixels", "UINT8", (images, 224, 224, 3), pixels)


@dataclass
class Way:
    """One way of calling a server, and what was measured.

    Attributes:
        name: the way, for people.
        instances: the processes of the preprocess step.
        request: the request.
        images: the images in it.
        rates: images/s, by round.
        cpu: the CPU time of an image in milliseconds by process, by round.
    """

    name: str
    instances: int
    request: pb.ModelInferRequest
    images: int
    rates: list[float] = dataclasses.field(default_factory=list)
    cpu: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def cpu_ms(self, process: str) -> float:
        """The median CPU time of an image in a process, in milliseconds."""
        return statistics.median(each.get(process, 0.0) for each in self.cpu)


def processes(triton: int) -> dict[str, list[int]]:
    """Returns the processes of a server by what they do: triton, preprocess, encoder; and this one: caller."""
    found: dict[str, list[int]] = {"caller": [os.getpid()], "triton": [triton], "preprocess": [], "encoder": []}
    for task in Path(f"/proc/{triton}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            found["preprocess" if f"{NAME}_preprocess".encode() in line else "encoder"].append(pid)
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Returns the CPU time of processes so far, in seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


async def ask(address: str, message: pb.ModelInferRequest, callers: int, seconds: float) -> float:
    """Returns the requests a second of several callers on one connection each."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await stub.ModelInfer(message)
        return await tasks(lambda: stub.ModelInfer(message), callers, seconds)


def measure(server: TritonServer, way: Way, seconds: float) -> None:
    """Adds a round to a way."""
    family = processes(server.pid)
    before = {name: cpu_s(pids) for name, pids in family.items()}
    callers = CALLERS if way.images == 1 else 4
    per_s = way.images * asyncio.run(ask(server.grpc_address, way.request, callers, seconds))
    way.rates.append(per_s)
    way.cpu.append({name: 1000 * (cpu_s(pids) - before[name]) / (per_s * seconds) for name, pids in family.items()})


@contextmanager
def servers(counts: Sequence[int]) -> Iterator[dict[int, TritonServer]]:
    """Starts a server for each number of processes of the preprocess step; those that are not asked do nothing."""
    with tempfile.TemporaryDirectory() as folder:
        started: dict[int, TritonServer] = {}
        try:
            for count in counts:
                write_repository(Path(folder) / str(count), count)
                started[count] = TritonServer(Path(folder) / str(count))
                started[count].start()
            yield started
        finally:
            for server in started.values():
                server.stop()


def path(seconds: float, rounds: int) -> list[Way]:
    """Measures all ways in turns."""
    ways = [Way(f"{count} preprocess", count, with_files(1), 1) for count in (1, 2, 4)]
    ways.append(Way(f"{MANY} files a request", 1, with_files(MANY), MANY))
    ways.append(Way("pixels", 1, with_pixels(1), 1))
    ways.append(Way(f"{MANY} pixels a request", 1, with_pixels(MANY), MANY))
    with servers((1, 2, 4)) as started:
        for number in range(rounds + 1):
            for way in ways if number % 2 else reversed(ways):
                measure(started[way.instances], way, seconds if number else 1.0)
            if not number:  # the first round warms up
                for way in ways:
                    way.rates.clear()
                    way.cpu.clear()
    return ways


def on_cores(count: int, seconds: float, rounds: int) -> float:
    """Returns the images/s of one preprocess process with server and caller on the first `count` cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        way = Way("", 1, with_files(1), 1)
        with servers((1,)) as started:
            for _ in range(rounds + 1):
                measure(started[1], way, seconds)
        return statistics.median(way.rates[1:])
    finally:
        os.sched_setaffinity(0, allowed)


def show_held(found: Sequence[Held]) -> None:
    """Prints the first table."""
    print("image                CPU ms   without the lock   with it   one process ends at images/s")
    for each in found:
        print(
            f"{each.image:18} {each.total_ms:8.2f} {each.free_ms:18.2f} {each.held_ms:9.2f} {1000 / each.held_ms:18.0f}"
        )


def show_path(ways: Sequence[Way]) -> None:
    """Prints the second table."""
    print(
        "\nway                    images/s   to the first          CPU ms an image: caller, triton, preprocess, encoder"
    )
    first = ways[0]
    for way in ways:
        ratios = [one / other for one, other in zip(way.rates, first.rates, strict=True)]
        low, high = confidence(ratios)
        split = ", ".join(f"{way.cpu_ms(name):.2f}" for name in ("caller", "triton", "preprocess", "encoder"))
        print(
            f"{way.name:22} {statistics.median(way.rates):8.0f}   {statistics.median(ratios):.2f} ({low:.2f} to "
            f"{high:.2f})   {split}"
        )


def show_model(costs: Costs, measured: dict[int, float]) -> None:
    """Prints the last tables."""
    print("\ncores   measured images/s   the model's")
    for cores, per_s in measured.items():
        print(f"{cores:5} {per_s:19.0f} {rate(costs, cores, 1, None):13.0f}")
    print("\nimages/s and preprocess processes by the model, for encoders that cost no core")
    print("cores " + "".join(f"{f'{encoder:.0f}/s':>22}" for encoder in ENCODERS))
    for cores in CORES:
        cells = []
        for encoder in ENCODERS:
            count = instances_for(costs, cores, encoder)
            cells.append(f"{rate(costs, cores, count, encoder):.0f}, {count} ({bound(costs, cores, count, encoder)})")
        print(f"{cores:5} " + "".join(f"{cell:>22}" for cell in cells))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    keep_memory()
    kinds = [(SMALL, "JPEG"), (SMALL, "PNG"), (SMALL, "WEBP"), (LARGE, "JPEG")]
    found = [held(size, kind, given.rounds) for size, kind in kinds]
    show_held(found)
    ways = path(given.seconds, given.rounds)
    show_path(ways)
    one = ways[0]
    costs = Costs(
        step_ms=one.cpu_ms("preprocess"),
        # what the step does beside `preprocess` (tensors, futures, copies) holds the lock, too
        held_ms=found[0].held_ms + max(0.0, one.cpu_ms("preprocess") - found[0].total_ms),
        server_ms=one.cpu_ms("triton") + one.cpu_ms("encoder"),
        caller_ms=one.cpu_ms("caller"),
    )
    cores = len(os.sched_getaffinity(0))
    measured = {1: on_cores(1, given.seconds, given.rounds), cores: statistics.median(one.rates)}
    show_model(costs, measured)
    if given.json is not None:
        document = {
            "lock": [dataclasses.asdict(each) | {"held_ms": each.held_ms} for each in found],
            "path": {way.name: {"images_per_s": way.rates, "cpu_ms": way.cpu} for way in ways},
            "costs": dataclasses.asdict(costs),
            "measured_images_per_s": measured,
        }
        given.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
