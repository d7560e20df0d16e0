"""Looks after a Triton that is ready: does every model still answer?"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from vitriton._wire.transport import InferRequest

from vitriton_server._config import WatchPolicy
from vitriton_server._watch.canary import (
    Answer,
    Health,
    death,
    next_question_s,
    with_answer,
    with_successes,
)

_LOG = logging.getLogger("vitriton_server")

Clock = Callable[[], float]


class Questions(Protocol):
    """What a watch asks; `Probe` asks it of a real Triton."""

    def successes(self) -> dict[str, int] | None:
        """Model → answered requests; None when nobody answers."""

    def ask(self, canary: InferRequest, timeout_s: float) -> tuple[Answer, str]:
        """Sends the canary to its model."""


class Watch:
    """The health of the models of one Triton.

    Args:
        questions: how Triton is asked.
        models: the models to watch, each with its canary.
        policy: how often, and what counts as dead.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        questions: Questions,
        models: dict[str, InferRequest],
        policy: WatchPolicy,
        clock: Clock = time.monotonic,
    ) -> None:
        self._questions = questions
        self._canaries = models
        self._policy = policy
        self._clock = clock
        now = clock()
        self._health = {name: Health(since_s=now) for name in models}
        self._asked_s: dict[str, float] = {}

    def follow(self, models: dict[str, InferRequest]) -> None:
        """Watches these models from now on; what is known of those that stay is kept."""
        now = self._clock()
        self._health = {name: self._health.get(name, Health(since_s=now)) for name in models}
        self._asked_s = {name: asked_s for name, asked_s in self._asked_s.items() if name in models}
        self._canaries = models

    def delay_s(self) -> float | None:
        """How long until the next look is due; None when there is nothing to watch."""
        if not self._health or not self._policy.canary_interval_s:
            return None
        return max(0.0, min(map(self._due_s, self._health)) - self._clock())

    def look(self) -> str | None:
        """Asks the models that are due; returns why the server must be taken for dead, or None."""
        if self.delay_s() != 0:
            return None
        due = [name for name in self._health if self._due_s(name) <= self._clock()]
        counts = self._questions.successes() or {}
        for name, health in self._health.items():
            self._health[name] = with_successes(health, counts.get(name, health.successes), self._clock())
        for name in due:
            if self._due_s(name) > self._clock():  # the statistics have spoken for it
                continue
            reason = self._question(name)
            if reason is not None:
                return reason
        return None

    def _due_s(self, name: str) -> float:
        if name not in self._asked_s:  # once at the start, which shows whether it can answer the canary at all
            return -math.inf
        return next_question_s(self._health[name], self._policy, self._asked_s[name])

    def _question(self, name: str) -> str | None:
        answer, text = self._questions.ask(self._canaries[name], self._policy.canary_timeout_s)
        now = self._clock()
        if answer is not Answer.ALIVE:
            _LOG.info("canary of %s: %s (%s)", name, answer.value, text)
        if answer is Answer.FAILED and name not in self._asked_s:
            _LOG.warning("%s cannot answer the canary image: its inner errors will not be noticed (%s)", name, text)
        self._asked_s[name] = now
        self._health[name] = with_answer(self._health[name], answer, now)
        reason = death(self._health[name], self._policy, now)
        return f"{name} {reason} ({text})" if reason is not None else None


class RestartBudget:
    """How many restarts are left, and how long to wait before the next one.

    Args:
        policy: the bounds.
        clock: seconds that only grow.
    """

    def __init__(self, policy: WatchPolicy, clock: Clock = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._restarts: deque[float] = deque()

    def take(self) -> float | None:
        """Counts a restart; returns the wait before it in seconds, or None when none is left."""
        now = self._clock()
        while self._restarts and now - self._restarts[0] >= self._policy.restart_window_s:
            self._restarts.popleft()
        if not self._policy.restart or len(self._restarts) >= self._policy.max_restarts:
            return None
        self._restarts.append(now)
        return float(self._policy.backoff_s * 2 ** (len(self._restarts) - 1))
