"""The photos that the cores decode: in processes, since the threads of one share its lock."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier

from vitriton.preprocessing import PreprocessSpec, preprocess

_START_S = 60.0  # for all processes

_ready: Barrier


def decoded_per_s(images: Sequence[bytes], spec: PreprocessSpec, processes: int, seconds: float) -> float:
    """Measures images a second from encoded bytes to pixels, in processes that begin at the same time.

    Args:
        images: the encoded images, which each process decodes again and again.
        spec: the steps of preprocessing.
        processes: the number of processes.
        seconds: the length of the measurement.
    """
    # A forked process would have this one's threads half, and its GPU.
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with context.Pool(processes, initializer=_begin, initargs=(ready,)) as pool:
        work = [(list(images), spec.to_json(), seconds)] * processes
        return sum(pool.starmap(_rate, work, chunksize=1))


def _begin(ready: Barrier) -> None:
    global _ready
    _ready = ready


def _rate(images: Sequence[bytes], spec_json: str, seconds: float) -> float:
    spec = PreprocessSpec.from_json(spec_json)
    preprocess(images[0], spec)
    _ready.wait(_START_S)  # so each process takes one piece of work
    done, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        preprocess(images[done % len(images)], spec)
        done += 1
    return done / took
