"""Measures calls that embed images or texts: one after the other, by callers that never pause, or at a rate."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

_SKIPPED_WAVES = 1  # all callers start at once; after one wave they are spread as they will stay
_WAVES = 2
_LOOK_S = 0.25
_MOST_IN_FLIGHT = 256  # requests at a rate; more of them wait for a thread, and their time counts


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement.

    Attributes:
        inputs_per_s: the images or texts a second.
        p50_ms: the median time of a call.
        p99_ms: the 99th percentile of a call's time.
        calls: the number of counted calls.
    """

    inputs_per_s: float
    p50_ms: float
    p99_ms: float
    calls: int


def repeat(call: Callable[[], object], inputs: int, seconds: float) -> Sample:
    """Calls again and again without a pause.

    Args:
        call: the function to measure.
        inputs: the number of images or texts in a call.
        seconds: the length of the measurement; at least one call is made.
    """
    took: list[float] = []
    started = time.perf_counter()
    while not took or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return _sample(took, inputs * len(took), time.perf_counter() - started)


def drive(call: Callable[[Any], object], inputs: Sequence[Any], callers: int, seconds: float) -> Sample:
    """Measures callers that never pause, each with one image or text at a time.

    Answers come in waves, a batch at a time, so a window of fixed length would count up to one wave too many or too
    few. The rate covers whole waves instead: from the end of the first to the end of the last complete one.

    Args:
        call: the function that sends an input and waits for its answer; called from several threads.
        inputs: the encoded images, or the texts; each caller sends one after the other.
        callers: the number of concurrent callers.
        seconds: the shortest length of the measurement, which lasts at least two waves.

    Raises:
        Exception: the error of the first failed call.
    """
    crew = _Crew(call, inputs)
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


def pace(call: Callable[[Any], object], inputs: Sequence[Any], rate: float, seconds: float) -> Sample:
    """Measures requests that come at random times, whether earlier ones are answered or not.

    The intervals are exponentially distributed, always the same, with the exact mean. The time of a request begins when
    it is due, so that one that waits for those before it is not left out.

    Args:
        call: the function that sends an input and waits for its answer; called from several threads.
        inputs: the encoded images, or the texts, which are sent in order.
        rate: the requests a second.
        seconds: the time in which requests come.

    Raises:
        Exception: the error of the first failed call.
    """
    random = Random(0)
    drawn = [random.expovariate(1.0) for _ in range(max(math.ceil(rate * seconds), 1))]
    moments = [moment * len(drawn) / rate / sum(drawn) for moment in itertools.accumulate(drawn)]
    started = time.perf_counter()

    def send(number: int) -> float:
        call(inputs[number % len(inputs)])
        return time.perf_counter() - started - moments[number]

    with ThreadPoolExecutor(min(len(drawn), _MOST_IN_FLIGHT)) as threads:
        sent = []
        for number, moment in enumerate(moments):
            time.sleep(max(moment - (time.perf_counter() - started), 0))
            sent.append(threads.submit(send, number))
        took = [each.result() for each in sent]
    return _sample(took, len(took), time.perf_counter() - started)


def best_of(
    look: Callable[[int, float], Sample], choices: Sequence[int], seconds: float, looks: int
) -> dict[int, float]:
    """Inputs/s of each choice, the best of several short measurements, in which the choices take turns."""
    speeds = dict.fromkeys(choices, 0.0)
    for _ in range(looks):
        for choice in choices:
            speeds[choice] = max(speeds[choice], look(choice, seconds).inputs_per_s)
    return speeds


def cycled(inputs: Sequence[Any], count: int) -> list[Any]:
    """The requested number of inputs, repeated from the start if there are fewer."""
    return list(itertools.islice(itertools.cycle(inputs), count))


def whole_waves(seen: Sequence[tuple[float, float]], callers: int) -> Sample:
    """The answers between the end of the first wave and the end of the last complete one.

    Args:
        seen: the time and duration of each answer, in order; at least two waves.
        callers: the number of answers in a wave.
    """
    first, last = _SKIPPED_WAVES * callers, len(seen) // callers * callers
    return _sample([took for _, took in seen[first:last]], last - first, seen[last - 1][0] - seen[first - 1][0])


class _Crew:
    """The state that the callers share.

    Attributes:
        answers: the time of each answer, and its duration.
        failures: the exceptions that calls raised.
        enough: the event that tells all callers to stop.
    """

    def __init__(self, call: Callable[[Any], object], inputs: Sequence[Any]) -> None:
        self._call, self._inputs = call, inputs
        self.answers: list[tuple[float, float]] = []
        self.failures: list[BaseException] = []
        self.enough = threading.Event()

    def work(self, position: int, step: int) -> None:
        """Runs one caller: every `step`-th input from a position on, again and again."""
        try:
            while not self.enough.is_set():
                started = time.perf_counter()
                self._call(self._inputs[position % len(self._inputs)])
                ended = time.perf_counter()
                self.answers.append((ended, ended - started))
                position += step
        except BaseException as exc:  # raised again in the thread that waits
            self.failures.append(exc)
            self.enough.set()

    def watch(self, least: int, seconds: float) -> list[tuple[float, float]]:
        """Waits for enough answers and returns them in order; later ones would come from an emptier server."""
        wait_s = seconds
        while not self.enough.wait(wait_s) and len(self.answers) < least:
            wait_s = min(seconds, _LOOK_S)  # a little longer, then check again
        return sorted(self.answers)


def _sample(took: Sequence[float], inputs: int, elapsed_s: float) -> Sample:
    p50, p99 = np.percentile(took, (50, 99)) * 1e3
    return Sample(inputs_per_s=inputs / elapsed_s, p50_ms=float(p50), p99_ms=float(p99), calls=len(took))
