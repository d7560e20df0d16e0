"""Shared memory that clients of this host have left with Triton when they were killed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from vitriton._shm.names import dead_regions

_LOG = logging.getLogger("vitriton_server")

INTERVAL_S = 30.0


class Memory(Protocol):
    """What Triton is asked; `Probe` asks it of a real one."""

    def regions(self) -> list[str]:
        """The names of the registered system shared-memory regions; empty when Triton does not say."""

    def unregister_region(self, name: str) -> bool:
        """Makes Triton forget a region; False when it does not, as a request still uses it."""


class Sweep:
    """Unregisters the regions of dead clients, every now and then.

    A region of a killed client keeps its memory for as long as Triton has it mapped.

    Args:
        memory: how Triton is asked.
        clock: seconds that only grow.
    """

    def __init__(self, memory: Memory, clock: Callable[[], float] = time.monotonic) -> None:
        self._memory = memory
        self._clock = clock
        self._due_s = clock()

    def delay_s(self) -> float:
        """How long until the next sweep is due."""
        return max(0.0, self._due_s - self._clock())

    def look(self) -> None:
        """Sweeps if it is due."""
        if self.delay_s():
            return
        self._due_s = self._clock() + INTERVAL_S
        for name in dead_regions(self._memory.regions()):
            if self._memory.unregister_region(name):
                _LOG.info("unregistered shared memory that a client left when it died: %s", name)
