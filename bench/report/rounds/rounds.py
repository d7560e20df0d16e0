"""Rounds in which everything that is compared takes its turn, so that whatever else the machine does hits all alike."""

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
    """Measures round after round, every second one backwards.

    Args:
        measurements: name → measurement. One that fails is left out from then on.
        rounds: gets a round after the other, each filled as it is measured, so that an interruption costs nothing.
        failed: gets the reasons, by name.
        most: how many rounds.
        allowed_s: the time that is left for them; the first round is made whatever it says, and another only if one as
            long as the longest so far would fit.
        say: is told what comes next.
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
            except Exception as exc:  # a peer may fail in any way, and the others go on
                failed[name] = f"{type(exc).__name__}: {exc}"
                say(f"{name} failed and is left out: {failed[name]}")
        longest = max(longest, time.monotonic() - started)
