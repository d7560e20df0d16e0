"""A model of one server: its images/s for a number of cores, of preprocess processes, and an encoder.

The inputs are the CPU times of an image, which bench/ceiling.py measures. Three things bound a server:

- the cores: every image costs CPU time in the step, in Triton and, if it runs on the same machine, in the caller;
- the step: a process holds the interpreter's lock for part of that time, and all its threads share the lock;
- the encoder: a GPU, which costs no core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_BUSY = 0.7  # the share of a process's lock to plan with: threads that wait for it lose time
_MOST = 64


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The CPU time of an image, in milliseconds.

    Attributes:
        step_ms: in the preprocess step.
        held_ms: the part of it that holds the interpreter's lock.
        server_ms: in Triton, and in the process of the encoder.
        caller_ms: in the caller, if it runs on the same machine; else 0.
    """

    step_ms: float
    held_ms: float
    server_ms: float
    caller_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.step_ms + self.server_ms + self.caller_ms


def bounds(costs: Costs, cores: int, instances: int, encoder_per_s: float | None) -> dict[str, float]:
    """Returns the images/s that each part allows.

    Args:
        costs: the CPU time of an image.
        cores: the cores of the machine.
        instances: the processes of the preprocess step.
        encoder_per_s: the images/s of the encoder; None: it costs nothing.
    """
    return {
        "cores": 1000 * cores / costs.total_ms,
        "step": 1000 * instances / costs.held_ms,
        "encoder": math.inf if encoder_per_s is None else encoder_per_s,
    }


def rate(costs: Costs, cores: int, instances: int, encoder_per_s: float | None) -> float:
    """Returns the images/s of a server; see `bounds`."""
    return min(bounds(costs, cores, instances, encoder_per_s).values())


def bound(costs: Costs, cores: int, instances: int, encoder_per_s: float | None) -> str:
    """Returns the part that bounds a server: cores, step or encoder."""
    found = bounds(costs, cores, instances, encoder_per_s)
    return min(found, key=lambda part: found[part])


def instances_for(costs: Costs, cores: int, encoder_per_s: float | None) -> int:
    """Returns the processes that the preprocess step needs so that it is not what bounds the server."""
    wanted = min(value for part, value in bounds(costs, cores, 1, encoder_per_s).items() if part != "step")
    return max(1, min(_MOST, math.ceil(wanted * costs.held_ms / 1000 / _BUSY)))
