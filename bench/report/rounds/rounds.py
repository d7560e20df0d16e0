"""Rounds in which all sides take turns, so that the machine's other work affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from vitriton_bench._document import significant

from report.rounds.speed import Sample

Measurement = Callable[[], Sample]
Round = dict[str, dict[str, float]]


def run(
    measurements: Mapping[str, Measurement],
    rounds: list[Round],
    failed: dict[str, str],
    *,
    most: int,
    allowed_s: Callable[[], float],
    say: Callable[[str], None],
) -> None:
    """Measures round after round, every second one in reverse order.

    Args:
        measurements: the measurements, by name. One that fails is left out from then on.
        rounds: the list that each round is appended to and filled in, so that an interruption loses nothing.
        failed: the dict that the reasons of failures are added to, by name.
        most: the most rounds.
        allowed_s: the remaining time for the rounds, in seconds; the first round always runs, and another only if one
            as long as the longest so far would fit.
        say: the function that shows a line of progress.
    """
    longest = 0.0
    for number in range(1, most + 1):
        if number > 1 and longest > allowed_s():
            say(f"no time for a round {number}: the longest took {longest:.0f} s")
            return
        say(f"round {number} of at most {most}" + (f", about {longest:.0f} s" if longest else ""))
        started = time.monotonic()
        rounds.append({})
        names = [name for name in measurements if name not in failed]
        for name in names if number % 2 else reversed(names):
            try:
                rounds[-1][name] = significant(asdict(measurements[name]()))
            except Exception as exc:  # a peer may fail in any way, and the others continue
                failed[name] = f"{type(exc).__name__}: {exc}"
                say(f"{name} failed and is left out: {failed[name]}")
        longest = max(longest, time.monotonic() - started)
