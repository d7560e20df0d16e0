"""The time that a call, or one request of it, may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

# Longer is as good as no limit, and would overflow gRPC's deadline and Triton's microseconds (int64).
_LONGEST_S = 365 * 24 * 3600.0


@dataclass(slots=True)
class Deadline:
    """A point in time; made with `Deadline.after`, or with `Deadline.starting` where the time is given.

    Methods that take `now_s` read no clock.

    Attributes:
        timeout_s: the time from the start, or from the last renewal, in seconds; None is no limit.
        ends_at: the end on the clock, in seconds.
        clock: a monotonic clock, in seconds.
        renewed: whether the time has started anew.
    """

    timeout_s: float | None
    ends_at: float
    clock: Callable[[], float]
    renewed: bool = False

    @classmethod
    def after(cls, timeout_s: float | None, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """A deadline `timeout_s` seconds from now; None is no limit."""
        return cls.starting(clock(), timeout_s, clock)

    @classmethod
    def starting(cls, now_s: float, timeout_s: float | None, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """A deadline `timeout_s` seconds after `now_s`; None is no limit."""
        return cls(timeout_s, math.inf if timeout_s is None else now_s + timeout_s, clock)

    def renew(self, now_s: float) -> None:
        """Starts the time anew."""
        if self.timeout_s is not None:
            self.ends_at, self.renewed = now_s + self.timeout_s, True

    def later(self, by_s: float) -> Deadline:
        """Another deadline, which ends `by_s` seconds after this one."""
        return Deadline(self.timeout_s, self.ends_at + by_s, self.clock, self.renewed)

    def left_s(self, now_s: float) -> float | None:
        """Seconds that are left at `now_s`, 0 when it is over; None is no limit."""
        if self.timeout_s is None:
            return None
        left_s = self.ends_at - now_s
        return 0.0 if left_s < 0.0 else left_s if left_s < _LONGEST_S else _LONGEST_S

    def is_over(self, now_s: float) -> bool:
        """Whether the time is over at `now_s`."""
        return now_s >= self.ends_at

    def remaining_s(self) -> float | None:
        """Seconds that are left, 0 when it is over; None is no limit."""
        return self.left_s(self.clock())

    def bounded_s(self, limit_s: float) -> float:
        """Seconds that are left, at most `limit_s`."""
        remaining_s = self.remaining_s()
        return limit_s if remaining_s is None else min(limit_s, remaining_s)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.is_over(self.clock())
