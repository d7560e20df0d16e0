"""The decision whether and when to retry a failed request: pure functions, without a clock."""

from __future__ import annotations

from dataclasses import dataclass

from vitriton._deadline import share_s
from vitriton._errors import without_frames
from vitriton._wire.status import Failure
from vitriton._wire.transport import CallError, Code

# A retry can help, and is safe, as embedding an image changes nothing on the server.
RETRIED = frozenset(
    {
        Failure.UNREACHABLE,
        Failure.NOT_SERVING,
        Failure.MODEL_DIED,
        Failure.QUEUE_FULL,
        Failure.QUEUE_TIMEOUT,
        Failure.RATE_LIMITED,
        Failure.NOT_READY,
    }
)

# The server itself has failed, rather than its load or the request: other servers are tried first.
SERVER_DOWN = frozenset({Failure.UNREACHABLE, Failure.NOT_SERVING, Failure.MODEL_DIED, Failure.NOT_READY})


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Attributes:
        initial_s: the longest first wait, in seconds.
        max_s: the upper limit of the longest wait, which doubles each time, in seconds.
        max_attempts: the largest number of attempts; None means no limit.
    """

    initial_s: float
    max_s: float
    max_attempts: int | None = None

    def longest_s(self, attempts: int) -> float:
        """The longest wait after `attempts` failed attempts (at least 1), in seconds."""
        return float(min(self.max_s, self.initial_s * 2.0 ** min(attempts - 1, 60)))

    def wait_s(self, failure: Failure, attempts: int, random: float) -> float | None:
        """The wait before the next attempt, in seconds; None if there must be none.

        Args:
            failure: the failure of the last attempt.
            attempts: the number of failed attempts.
            random: a random number from 0 to 1, evenly distributed.
        """
        if failure not in RETRIED or (self.max_attempts is not None and attempts >= self.max_attempts):
            return None
        return random * self.longest_s(attempts)


def attempt_s(left_s: float | None, limit_s: float | None) -> tuple[float | None, bool]:
    """The time of one attempt of a request, in seconds, and whether that is less than the request has.

    Args:
        left_s: the time that the request has left, in seconds; None means no limit.
        limit_s: the time limit of one attempt (`Options.attempt_timeout_s`), in seconds; None means no limit.
    """
    if limit_s is None or (left_s is not None and left_s <= limit_s):
        return left_s, False
    return limit_s, True


def look_limit_s(left_s: float | None, limit_s: float | None, servers: int, failed: int) -> float | None:
    """The time limit of an attempt to read what a server serves, in seconds; None means no limit.

    Of several servers, each that is untried has an equal part of the time that is left; one more part is for what
    comes after it.

    Args:
        left_s: the time that the request has left, in seconds; None means no limit.
        limit_s: the time limit of any attempt (`Options.attempt_timeout_s`), in seconds; None means no limit.
        servers: the number of servers.
        failed: the number of servers on which the request has failed.
    """
    if servers == 1:
        return limit_s
    part_s = share_s(left_s, max(servers - failed, 1) + 1)
    return part_s if limit_s is None else min(part_s, limit_s)


def no_answer(late: CallError, waited_s: float | None, limit_s: float | None) -> CallError:
    """The failure of an attempt that had less time than its request.

    Args:
        late: the failure with the transport's own text.
        waited_s: the time of the attempt, in seconds.
        limit_s: the time limit of any attempt (`Options.attempt_timeout_s`), in seconds; None means no limit.
    """
    whose = " (attempt_timeout_s)" if waited_s == limit_s else ""
    failed = CallError(Code.UNAVAILABLE, f"no answer in {waited_s:.3g} s{whose}")
    failed.__cause__ = without_frames(late)
    return failed
