"""Which of several servers gets a request."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from vitriton._call.retry import Backoff
from vitriton._served.contract import Contract
from vitriton._wire.transport import Transport

_LOG = logging.getLogger("vitriton")

# What answers again within this time is the same server: a Triton takes longer to be replaced (2 s with a tiny model).
_REPLACED_S = 1.0


@dataclass(eq=False)
class Server:
    """One of the servers, and what is known of it.

    Attributes:
        transport: the way to it.
        failures: in a row.
        rests_until_s: it is left alone until then where there is another, on the balancer's clock.
        contracts: ensemble → what it promised; emptied when it fails, as it may come back with another export.
        heard_s: when it last answered, on the balancer's clock.
    """

    transport: Transport
    failures: int = 0
    rests_until_s: float = 0.0
    contracts: dict[str, Contract] = field(default_factory=dict)
    heard_s: float = -math.inf

    @property
    def address(self) -> str:
        """The server's address, for messages."""
        return self.transport.address

    def promise(self, model: str, now_s: float) -> Contract | None:
        """What it promised for an ensemble; None where it must be asked, as it may have been replaced meanwhile."""
        return self.contracts.get(model) if now_s - self.heard_s < _REPLACED_S else None


class Balancer:
    """Round robin over the servers that are up. Safe to share between threads.

    A server that failed rests for a while, longer each time; when all rest, the one whose rest ends first is taken, so
    that somebody is always asked.

    Args:
        transports: one for each server.
        backoff: how long a server rests.
    """

    def __init__(self, transports: Sequence[Transport], backoff: Backoff) -> None:
        self.servers = tuple(Server(transport) for transport in transports)
        self.backoff = backoff
        self._lock = threading.Lock()
        self._next = 0

    @property
    def address(self) -> str:
        """The addresses of all servers, for messages."""
        return ", ".join(server.address for server in self.servers)

    def pick(self, now_s: float, avoid: Collection[Server] = ()) -> Server:
        """The server for the next request.

        Args:
            now_s: the time.
            avoid: taken only if there is no other: those where this request has failed.
        """
        if len(self.servers) == 1:
            return self.servers[0]
        with self._lock:
            turn = self._next
            self._next = (turn + 1) % len(self.servers)
            order = [*self.servers[turn:], *self.servers[:turn]]
        return min(order, key=lambda server: (max(0.0, server.rests_until_s - now_s), server in avoid))

    def succeeded(self, server: Server) -> None:
        """Notes an answer."""
        if server.failures:
            with self._lock:
                was_down = server.failures > 0
                server.failures, server.rests_until_s = 0, 0.0
            if was_down:
                _LOG.info("the server at %s answers again", server.address)

    def failed(self, server: Server, now_s: float, reason: object) -> None:
        """Notes that a server is down, for `reason`; the log has the first of it."""
        with self._lock:
            was_up = server.failures == 0
            server.contracts.clear()
            if now_s >= server.rests_until_s:  # requests that fail together count once
                server.failures += 1
                server.rests_until_s = now_s + self.backoff.longest_s(server.failures)
        if was_up:
            _LOG.info("the server at %s is down: %s", server.address, reason)
