"""Judges a model by its responses to the canary request. Pure: no clock, no network.

When a python step has died, Triton's readiness is still 200, while every request fails with INTERNAL "... is not
healthy", so only an inference shows it. A model that answers other requests gets no canary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import Code

from vitriton_server._config import WatchPolicy

# A PNG file with one gray RGB pixel.
IMAGE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415478da63686868000003040181752e01bc0000000049454e44ae426082"
)

TEXT = b"ready"

_DEAD_AFTER = 2  # failures in a row
_STUCK_AFTER = 3  # timeouts in a row, and `stuck_after_s` without any success
_RECHECK_S = 1.0  # a suspect model is checked sooner than the next regular canary

# Refusals that only a live model, or a live server in front of it, can return.
_REFUSALS = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.ALREADY_EXISTS)


class CanaryResult(Enum):
    """The result of a canary request."""

    ALIVE = "alive"  # tensors, or a refusal that only a live model can return
    NOT_HEALTHY = "not healthy"  # Triton reports that the model's process is gone
    FAILED = "failed"  # another internal error; counts only if a canary has succeeded before
    BUSY = "busy"
    SILENT = "silent"  # no response in time, or no connection


_BUSY = (Failure.QUEUE_FULL, Failure.QUEUE_TIMEOUT, Failure.RATE_LIMITED)


def read_result(status: str | None, message: str) -> CanaryResult:
    """Classifies a response by the client's table of status codes.

    Args:
        status: the name of the gRPC status code; None for success.
        message: the text of the status.
    """
    if status is None:
        return CanaryResult.ALIVE
    code = Code(status) if status in Code.__members__ else Code.UNKNOWN
    failure = classify(code, message)
    if code in _REFUSALS:
        return CanaryResult.ALIVE
    if failure is Failure.MODEL_DIED:
        return CanaryResult.NOT_HEALTHY
    if failure in _BUSY or code is Code.RESOURCE_EXHAUSTED:
        return CanaryResult.BUSY
    if code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED):
        return CanaryResult.SILENT
    return CanaryResult.FAILED


@dataclass(frozen=True, kw_only=True)
class Health:
    """The known health of one model.

    Attributes:
        last_alive_s: the time of its last sign of life, on the caller's clock.
        successes: the number of its successful requests at the last look, canaries included.
        proven: whether it has ever answered a canary.
        bad: the number of responses in a row that suggest its death.
        missing: the number of canaries in a row without a response.
    """

    last_alive_s: float
    successes: int = 0
    proven: bool = False
    bad: int = 0
    missing: int = 0


def next_canary_s(health: Health, policy: WatchPolicy, asked_s: float) -> float:
    """Returns the time of the next canary, unless the model shows life before."""
    if health.bad:
        return asked_s + min(_RECHECK_S, policy.canary_interval_s)
    return max(health.last_alive_s, asked_s) + policy.canary_interval_s


def with_successes(health: Health, successes: int, now_s: float) -> Health:
    """Returns the health after a look at the statistics: new successes are a sign of life."""
    if successes > health.successes:
        return Health(last_alive_s=now_s, successes=successes, proven=health.proven)
    return replace(health, successes=successes)


def with_result(health: Health, result: CanaryResult, now_s: float) -> Health:
    """Returns the health after a canary."""
    if result is CanaryResult.ALIVE:
        # The next statistics include this success; counting it here keeps it from looking like another request.
        return Health(last_alive_s=now_s, successes=health.successes + 1, proven=True)
    if result is CanaryResult.BUSY:
        return replace(health, last_alive_s=now_s, bad=0, missing=0)
    if result is CanaryResult.SILENT:  # not a sign of life: the queue of a dead model is slow, too
        return replace(health, missing=health.missing + 1)
    if result is CanaryResult.FAILED and not health.proven:
        return replace(health, last_alive_s=now_s)  # perhaps the model cannot use this input
    return replace(health, bad=health.bad + 1, missing=0)


def death(health: Health, policy: WatchPolicy, now_s: float) -> str | None:
    """Says why the model counts as dead; None while it does not."""
    if health.bad >= _DEAD_AFTER:
        return f"answered {health.bad} requests in a row with an internal error"
    silent_s = now_s - health.last_alive_s
    if health.missing >= _STUCK_AFTER and silent_s >= policy.stuck_after_s:
        return f"has answered nothing for {silent_s:.0f} s"
    return None
