"""Time that a run may take, and what is left of it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Counts from its making.

    Args:
        budget_s: the time that the whole run may take.
        tell: shows a line to the user.
    """

    def __init__(self, budget_s: float, tell: Callable[[str], None]) -> None:
        self._started = time.monotonic()
        self._budget_s = budget_s
        self._tell = tell

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float:
        """Until the end; below 0 when it is over."""
        return self._budget_s - self.elapsed_s

    def say(self, text: str) -> None:
        """A line, with the time that has passed and what is left at most."""
        self._tell(f"{_minutes(self.elapsed_s)}  {text}  (at most {_minutes(max(self.left_s, 0))} left)")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
