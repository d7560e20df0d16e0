"""Watches a Triton that is ready: whether every model still answers."""

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
    CanaryResult,
    Health,
    death,
    next_canary_s,
    with_result,
    with_successes,
)

_LOG = logging.getLogger("vitriton_server")

Clock = Callable[[], float]


class ModelProbe(Protocol):
    """The requests of a watch; `Probe` sends them to a real Triton."""

    def successes(self) -> dict[str, int] | None:
        """Returns model → the requests that it has answered; None without a response."""

    def ask(self, canary: InferRequest, timeout_s: float) -> tuple[CanaryResult, str]:
        """Sends the canary request to its model; returns the result and Triton's text."""


class Watch:
    """The watch over the models of one Triton.

    Args:
        probe: the probe that sends the requests.
        models: the models to watch, each with its canary request.
        policy: the intervals, timeouts and bounds.
        clock: the function that returns monotonic seconds.
    """

    def __init__(
        self,
        probe: ModelProbe,
        models: dict[str, InferRequest],
        policy: WatchPolicy,
        clock: Clock = time.monotonic,
    ) -> None:
        self._probe = probe
        self._canaries = models
        self._policy = policy
        self._clock = clock
        now = clock()
        self._health = {name: Health(last_alive_s=now) for name in models}
        self._asked_s: dict[str, float] = {}

    def follow(self, models: dict[str, InferRequest]) -> None:
        """Watches these models from now on; keeps the health of those that stay."""
        now = self._clock()
        self._health = {name: self._health.get(name, Health(last_alive_s=now)) for name in models}
        self._asked_s = {name: asked_s for name, asked_s in self._asked_s.items() if name in models}
        self._canaries = models

    def delay_s(self) -> float | None:
        """Returns the time until the next look, in seconds; None when there is nothing to watch."""
        if not self._health or not self._policy.canary_interval_s:
            return None
        return max(0.0, min(map(self._due_s, self._health)) - self._clock())

    def look(self) -> str | None:
        """Sends the canaries that are due; returns why the server counts as dead, or None."""
        if self.delay_s() != 0:
            return None
        due = [name for name in self._health if self._due_s(name) <= self._clock()]
        counts = self._probe.successes() or {}
        for name, health in self._health.items():
            self._health[name] = with_successes(health, counts.get(name, health.successes), self._clock())
        for name in due:
            if self._due_s(name) > self._clock():  # the statistics show that it is alive
                continue
            reason = self._send_canary(name)
            if reason is not None:
                return reason
        return None

    def _due_s(self, name: str) -> float:
        if name not in self._asked_s:  # once at the start, to find out whether it can answer the canary at all
            return -math.inf
        return next_canary_s(self._health[name], self._policy, self._asked_s[name])

    def _send_canary(self, name: str) -> str | None:
        result, text = self._probe.ask(self._canaries[name], self._policy.canary_timeout_s)
        now = self._clock()
        if result is not CanaryResult.ALIVE:
            _LOG.info("canary of %s: %s (%s)", name, result.value, text)
        if result is CanaryResult.FAILED and name not in self._asked_s:
            _LOG.warning("%s cannot answer the canary image: its internal errors will not be noticed (%s)", name, text)
        self._asked_s[name] = now
        self._health[name] = with_result(self._health[name], result, now)
        reason = death(self._health[name], self._policy, now)
        return f"{name} {reason} ({text})" if reason is not None else None


class RestartBudget:
    """The restarts that are left, and the wait before the next one.

    Args:
        policy: the policy with the bounds.
        clock: the function that returns monotonic seconds.
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
