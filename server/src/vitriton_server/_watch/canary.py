"""What an answer to the canary says about a model, and when a model is dead. Pure: no clock, no network.

A python step that has died leaves Triton's readiness at 200 while every request is answered INTERNAL "... is not
healthy", so only an inference tells. A model that answers other requests is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import Code

from vitriton_server._config import WatchPolicy

# A PNG of one grey pixel, RGB.
IMAGE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415478da63686868000003040181752e01bc0000000049454e44ae426082"
)

_DEAD_AFTER = 2  # answers in a row
_STUCK_AFTER = 3  # missing answers in a row, and `stuck_after_s` without any success
_RECHECK_S = 1.0  # a suspicion is looked into sooner than the next regular question

# Refusals that only a living model, or a living server before it, can give.
_REFUSALS = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.ALREADY_EXISTS)


class Answer(Enum):
    """What came back."""

    ALIVE = "alive"  # tensors, or a refusal that only a living model can give
    NOT_HEALTHY = "not healthy"  # Triton says that the model's process is gone
    FAILED = "failed"  # another inner error; counts only if the same question has been answered before
    BUSY = "busy"
    SILENT = "silent"  # no answer in time, or no connection


_BUSY = (Failure.QUEUE_FULL, Failure.QUEUE_TIMEOUT, Failure.RATE_LIMITED)


def read_answer(status: str | None, message: str) -> Answer:
    """Reads an answer, by what the client's table says of it.

    Args:
        status: the name of the gRPC status code; None for success.
        message: its text.
    """
    if status is None:
        return Answer.ALIVE
    code = Code(status) if status in Code.__members__ else Code.UNKNOWN
    failure = classify(code, message)
    if code in _REFUSALS:
        return Answer.ALIVE
    if failure is Failure.MODEL_DIED:
        return Answer.NOT_HEALTHY
    if failure in _BUSY or code is Code.RESOURCE_EXHAUSTED:
        return Answer.BUSY
    if code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED):
        return Answer.SILENT
    return Answer.FAILED


@dataclass(frozen=True, kw_only=True)
class Health:
    """What is known of one model.

    Attributes:
        since_s: when it last showed life, on the caller's clock.
        successes: of all its requests, the canary's among them, at the last look.
        proven: it has answered the canary at least once.
        bad: answers in a row that speak for its death.
        missing: questions in a row without an answer.
    """

    since_s: float
    successes: int = 0
    proven: bool = False
    bad: int = 0
    missing: int = 0


def next_question_s(health: Health, policy: WatchPolicy, asked_s: float) -> float:
    """When the model is to be asked, unless it shows life before."""
    if health.bad:
        return asked_s + min(_RECHECK_S, policy.canary_interval_s)
    return max(health.since_s, asked_s) + policy.canary_interval_s


def with_successes(health: Health, successes: int, now_s: float) -> Health:
    """The health after a look at the statistics: more successes than before are a sign of life."""
    if successes > health.successes:
        return Health(since_s=now_s, successes=successes, proven=health.proven)
    return replace(health, successes=successes)


def with_answer(health: Health, answer: Answer, now_s: float) -> Health:
    """The health after an answer."""
    if answer is Answer.ALIVE:
        # Its own success is in the next statistics; counted here, it is not taken for somebody else's.
        return Health(since_s=now_s, successes=health.successes + 1, proven=True)
    if answer is Answer.BUSY:
        return replace(health, since_s=now_s, bad=0, missing=0)
    if answer is Answer.SILENT:  # no sign of life: the queue of a dead model is slow, too
        return replace(health, missing=health.missing + 1)
    if answer is Answer.FAILED and not health.proven:
        return replace(health, since_s=now_s)  # perhaps it can do nothing with this image
    return replace(health, bad=health.bad + 1, missing=0)


def death(health: Health, policy: WatchPolicy, now_s: float) -> str | None:
    """Why the model must be taken for dead; None while it need not."""
    if health.bad >= _DEAD_AFTER:
        return f"answered {health.bad} requests in a row with an inner error"
    silent_s = now_s - health.since_s
    if health.missing >= _STUCK_AFTER and silent_s >= policy.stuck_after_s:
        return f"has answered nothing for {silent_s:.0f} s"
    return None
