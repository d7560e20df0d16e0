"""The deadline of a call, or of one of its requests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

# A longer time would overflow gRPC's deadline and Triton's microseconds (int64).
_LONGEST_S = 365 * 24 * 3600.0
# A server that takes longer than the first to say what it serves is silent; less than the second is no time to ask it.
_LONGEST_SHARE_S, _SHORTEST_SHARE_S = 10.0, 0.2


@dataclass(slots=True)
class Deadline:
    """A point in time, made with `Deadline.after`, or with `Deadline.starting` for a given start.

    Methods that take `now_s` do not read the clock.

    Attributes:
        timeout_s: the time from the start, or from the last renewal, in seconds; None means no limit.
        ends_at: the end on the clock, in seconds.
        clock: the monotonic clock, in seconds.
        renewed: whether the deadline was renewed.
    """

    timeout_s: float | None
    ends_at: float
    clock: Callable[[], float]
    renewed: bool = False

    @classmethod
    def after(cls, timeout_s: float | None, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """A deadline `timeout_s` seconds from now; None means no limit."""
        return cls.starting(clock(), timeout_s, clock)

    @classmethod
    def starting(cls, now_s: float, timeout_s: float | None, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """A deadline `timeout_s` seconds after `now_s`; None means no limit."""
        return cls(timeout_s, math.inf if timeout_s is None else now_s + timeout_s, clock)

    def renew(self, now_s: float) -> None:
        """Starts the time again, at `now_s`."""
        if self.timeout_s is not None:
            self.ends_at, self.renewed = now_s + self.timeout_s, True

    def later(self, by_s: float) -> Deadline:
        """A new deadline, `by_s` seconds after this one."""
        return Deadline(self.timeout_s, self.ends_at + by_s, self.clock, self.renewed)

    def left_s(self, now_s: float) -> float | None:
        """The time left at `now_s`, in seconds; 0 if it is over, None if there is no limit."""
        if self.timeout_s is None:
            return None
        left_s = self.ends_at - now_s
        return 0.0 if left_s < 0.0 else left_s if left_s < _LONGEST_S else _LONGEST_S

    def is_over(self, now_s: float) -> bool:
        """Whether the time is over at `now_s`."""
        return now_s >= self.ends_at

    def remaining_s(self) -> float | None:
        """The time left, in seconds; 0 if it is over, None if there is no limit."""
        return self.left_s(self.clock())

    def bounded_s(self, limit_s: float) -> float:
        """The time left, at most `limit_s`, in seconds."""
        remaining_s = self.remaining_s()
        return limit_s if remaining_s is None else min(limit_s, remaining_s)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.is_over(self.clock())


def share_s(left_s: float | None, parts: int) -> float:
    """The time for one of several servers to say what it serves, so that a silent one leaves time for the others.

    Args:
        left_s: the time that is left for all, in seconds; None means no limit.
        parts: the number of equal parts of that time.
    """
    if left_s is None:
        return _LONGEST_SHARE_S
    return min(max(left_s / parts, _SHORTEST_SHARE_S), left_s, _LONGEST_SHARE_S)
