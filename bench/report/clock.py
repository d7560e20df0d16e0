"""The elapsed and remaining time of a run."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Counts the time from its creation.

    Args:
        budget_s: the time that the whole run may take, in seconds.
        tell: the function that shows a line to the user.
    """

    def __init__(self, budget_s: float, tell: Callable[[str], None]) -> None:
        self._started = time.monotonic()
        self._budget_s = budget_s
        self._tell = tell

    @property
    def elapsed_s(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float:
        """The seconds until the end; negative after it."""
        return self._budget_s - self.elapsed_s

    def say(self, text: str) -> None:
        """Shows a line, with the elapsed and the remaining time."""
        self._tell(f"{_minutes(self.elapsed_s)}  {text}  (at most {_minutes(max(self.left_s, 0))} left)")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
