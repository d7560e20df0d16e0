"""The choice of a server for each request."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from vitriton._call.retry import Backoff
from vitriton._deadline import Deadline
from vitriton._served.contract import Contract
from vitriton._served.failures import is_down
from vitriton._wire.transport import Transport

_LOG = logging.getLogger("vitriton")

# A server that answers again within this time is the same: replacing a Triton takes longer (2 s with a tiny model).
_REPLACED_S = 1.0


@dataclass(eq=False)
class Server:
    """One server and its state.

    Attributes:
        transport: the transport to the server.
        failures: the number of failures in a row.
        failed_s: the time of the last failure, on the client's clock, in seconds.
        down_until_s: the time until which other servers are preferred, on the client's clock, in seconds.
        contracts: the server's contracts by ensemble; cleared on failure, as the server may return with another export.
        last_seen_s: the time of the last answer, on the client's clock, in seconds.
    """

    transport: Transport
    failures: int = 0
    failed_s: float = -math.inf
    down_until_s: float = 0.0
    contracts: dict[str, Contract] = field(default_factory=dict)
    last_seen_s: float = -math.inf

    @property
    def address(self) -> str:
        """The server's address, for messages."""
        return self.transport.address

    def known_contract(self, model: str, now_s: float) -> Contract | None:
        """The contract of an ensemble; None if it must be read again, as the server may have been replaced."""
        return self.contracts.get(model) if now_s - self.last_seen_s < _REPLACED_S else None


class Balancer:
    """Round robin over the servers that are up. Safe to share between threads.

    A server that failed counts as down for a while, longer each time. When all servers are down, the balancer picks
    the one that is down for the shortest remaining time, so that there is always a server to try.

    Args:
        transports: the transports, one for each server.
        backoff: the policy that says how long a failed server counts as down.
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
        """Picks the server for the next request.

        Args:
            now_s: the current time, in seconds.
            avoid: the servers on which this request has failed; they are picked only if there is no other.
        """
        if len(self.servers) == 1:
            return self.servers[0]
        with self._lock:
            turn = self._next
            self._next = (turn + 1) % len(self.servers)
            order = [*self.servers[turn:], *self.servers[:turn]]
        return min(order, key=lambda server: (max(0.0, server.down_until_s - now_s), server in avoid))

    def succeeded(self, server: Server) -> None:
        """Records an answer from a server; logs the first one after a failure."""
        if server.failures:
            with self._lock:
                was_down = server.failures > 0
                server.failures, server.down_until_s = 0, 0.0
            if was_down:
                _LOG.warning("the server at %s answers again", server.address)

    def failed(self, server: Server, now_s: float, reason: object, deadline: Deadline | None) -> None:
        """Marks a server as down; logs the first failure in a row: an error is seen only when all attempts are over.

        Args:
            server: the server.
            now_s: the current time, in seconds.
            reason: the failure.
            deadline: the end of further attempts; None if there are none, and the caller raises the failure.
        """
        with self._lock:
            was_up = server.failures == 0
            server.contracts.clear()
            server.failed_s = now_s
            if now_s >= server.down_until_s:  # requests that fail together count once
                server.failures += 1
                server.down_until_s = now_s + self.backoff.longest_s(server.failures)
        if was_up:
            level = logging.INFO if deadline is None else logging.WARNING
            _LOG.log(level, "%s", is_down(server.address, reason, deadline, now_s))
