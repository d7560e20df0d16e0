"""Speed of anything that turns images into embeddings: one call after the other, or callers that never pause."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SKIPPED_WAVES = 1  # all callers start at once; after a wave they are where they stay
_WAVES = 2
_LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement.

    Attributes:
        images_per_s: images a second.
        p50_ms: median time of a call.
        p99_ms: 99th percentile of it.
        calls: how many were counted.
    """

    images_per_s: float
    p50_ms: float
    p99_ms: float
    calls: int


def repeat(call: Callable[[], object], images: int, seconds: float) -> Sample:
    """Calls again and again, with nothing between.

    Args:
        call: makes one call.
        images: how many images a call works on.
        seconds: how long; at least one call is made.
    """
    took: list[float] = []
    started = time.perf_counter()
    while not took or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return _sample(took, images * len(took), time.perf_counter() - started)


def drive(call: Callable[[bytes], object], images: Sequence[bytes], callers: int, seconds: float) -> Sample:
    """Callers that never pause, each with one image at a time.

    Answers come in waves, a batch at a time, so a window of fixed length would count up to a wave too many or too few.
    The rate is taken over whole waves instead: between the end of the first and the end of the last complete one.

    Args:
        call: sends an image and waits for its answer; is called from several threads.
        images: encoded images; each caller sends one after the other.
        callers: how many call at the same time.
        seconds: how long at least; longer where fewer than two waves have come.

    Raises:
        Exception: what the first call that failed raised.
    """
    crew = _Crew(call, images)
    threads = [threading.Thread(target=crew.work, args=(offset, callers)) for offset in range(callers)]
    for thread in threads:
        thread.start()
    try:
        seen = crew.watch(_WAVES * callers, seconds)
    finally:
        crew.enough.set()
        for thread in threads:
            thread.join()
    if crew.failures:
        raise crew.failures[0]
    return whole_waves(seen, callers)


class _Crew:
    """What callers share.

    Attributes:
        answers: when each answer came, and how long it took.
        failures: what calls raised.
        enough: set when all callers are to stop.
    """

    def __init__(self, call: Callable[[bytes], object], images: Sequence[bytes]) -> None:
        self._call, self._images = call, images
        self.answers: list[tuple[float, float]] = []
        self.failures: list[BaseException] = []
        self.enough = threading.Event()

    def work(self, position: int, step: int) -> None:
        """One caller: every `step`-th image from a position on, again and again."""
        try:
            while not self.enough.is_set():
                started = time.perf_counter()
                self._call(self._images[position % len(self._images)])
                ended = time.perf_counter()
                self.answers.append((ended, ended - started))
                position += step
        except BaseException as exc:  # raised again in the thread that waits
            self.failures.append(exc)
            self.enough.set()

    def watch(self, least: int, seconds: float) -> list[tuple[float, float]]:
        """The answers so far, in order, once there are enough; those that come later meet an emptier server."""
        wait_s = seconds
        while not self.enough.wait(wait_s) and len(self.answers) < least:
            wait_s = min(seconds, _LOOK_S)  # a little longer, and look again
        return sorted(self.answers)


def best_of(
    look: Callable[[int, float], Sample], choices: Sequence[int], seconds: float, looks: int
) -> dict[int, float]:
    """Images/s by choice, the best of several short looks, in which the choices take turns."""
    speeds = dict.fromkeys(choices, 0.0)
    for _ in range(looks):
        for choice in choices:
            speeds[choice] = max(speeds[choice], look(choice, seconds).images_per_s)
    return speeds


def cycled(images: Sequence[Any], count: int) -> list[Any]:
    """As many images as asked for, from the start again where there are fewer."""
    return list(itertools.islice(itertools.cycle(images), count))


def whole_waves(seen: Sequence[tuple[float, float]], callers: int) -> Sample:
    """The answers between the end of the first wave and the end of the last complete one.

    Args:
        seen: when each answer came and how long it took, in order; two waves of them or more.
        callers: answers in a wave.
    """
    first, last = _SKIPPED_WAVES * callers, len(seen) // callers * callers
    return _sample([took for _, took in seen[first:last]], last - first, seen[last - 1][0] - seen[first - 1][0])


def _sample(took: Sequence[float], images: int, elapsed_s: float) -> Sample:
    p50, p99 = np.percentile(took, (50, 99)) * 1e3
    return Sample(images_per_s=images / elapsed_s, p50_ms=float(p50), p99_ms=float(p99), calls=len(took))
