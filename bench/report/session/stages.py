"""The stages of a session: each has a limit, and one that fails loses only its own figures."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from vitriton_bench._errors import BenchError

from report.clock import Clock

T = TypeVar("T")

_LEAST_S = 1.0


class StageOver(KeyboardInterrupt):
    """A stage has taken as long as it may: its code ends as it does by Ctrl-C, whatever `Exception` it handles."""


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises `StageOver` in the block, which is in the main thread, when it has taken this long."""

    def over(*_: object) -> None:
        raise StageOver

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Stages:
    """Runs one stage after the other, and notes how long each took.

    Args:
        clock: the time of the session.
        rows: the list that gets an entry for each stage: "stage", "took_s", and "error" if it failed.
        save: the function that is called after each stage.
    """

    def __init__(self, clock: Clock, rows: list[dict[str, Any]], save: Callable[[], object]) -> None:
        self._clock = clock
        self._rows = rows
        self._save = save

    def run(self, name: str, limit_s: float, action: Callable[[], T]) -> T | None:
        """Returns the result of a stage, or None if it failed.

        Args:
            name: the name of the stage.
            limit_s: the longest time of the stage, in seconds; less if the session ends earlier.
            action: the stage; its result is not None.
        """
        self._clock.say(name)
        row: dict[str, Any] = {"stage": name}
        result, allowed_s, started = None, min(limit_s, self._clock.left_s), time.monotonic()
        try:
            if allowed_s < _LEAST_S:
                raise BenchError("there was no time for it")
            with bounded(allowed_s):
                result = action()
        except StageOver:
            row["error"] = f"it was ended after {allowed_s:.0f} s"
        except Exception as exc:  # drivers and foreign programs can fail in any way
            row["error"] = str(exc) if isinstance(exc, BenchError) else f"{type(exc).__name__}: {exc}"
        row["took_s"] = time.monotonic() - started
        if "error" in row:
            self._clock.say(f"{name}: {row['error']}")
        self._rows.append(row)
        self._save()
        return result

    def left_out(self, name: str, reason: str) -> None:
        """Notes a stage that cannot run here."""
        self._rows.append({"stage": name, "took_s": 0.0, "error": reason})
        self._save()
