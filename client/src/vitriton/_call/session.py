"""What the calls of a client share, for the blocking and the asynchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn, TypeVar

from vitriton._call.balance import Balancer
from vitriton._call.lifetime import Lifetime
from vitriton._call.retry import Backoff
from vitriton._call.service import Services
from vitriton._call.settings import Settings
from vitriton._call.stats import Counters
from vitriton._call.tracing import OpenTelemetryTracer
from vitriton._images.reading import Reader
from vitriton._wire.connect import connect
from vitriton._wire.transport import Awaitable, Transport

T = TypeVar("T")

_CONTROL_THREADS = 4
_ENDING = "the program is ending: its main thread has returned; join the threads that use a client before that"


class Core:
    """What the calls of a client share: servers, contracts, reading threads, counts. Safe to share between threads.

    Args:
        address: the servers' addresses; ignored if there is a transport.
        settings: the client's settings.
        transport: a transport to use instead of those for `address`.
        kind: the name of the client's class, for messages.
        asynchronous: whether an event loop sends the requests.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        settings: Settings,
        transport: Transport | None,
        kind: str,
        *,
        asynchronous: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.options = settings.options
        self.clock = clock
        self.counters = Counters()
        self.tracer = OpenTelemetryTracer() if settings.tracing else None
        backoff = Backoff(
            initial_s=self.options.initial_backoff_s,
            max_s=self.options.max_backoff_s,
            max_attempts=self.options.max_attempts,
        )
        self.balancer = Balancer(
            [transport]
            if transport is not None
            else connect(
                address,
                tls=settings.tls,
                token=settings.token,
                headers=settings.headers,
                options=settings.options,
                asynchronous=asynchronous,
            ),
            backoff,
        )
        self.lifetime = Lifetime(kind, self.balancer.address, settings.model)
        self.check_usable = self.lifetime.check_usable
        self.awaitables = {
            server: server.transport for server in self.balancer.servers if isinstance(server.transport, Awaitable)
        }
        self.services = Services(settings, self.balancer, self.lifetime, clock)
        self.reader = Reader(self.options)
        self._control = ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="vitriton-control")

    def __repr__(self) -> str:
        closed = ", closed" if self.lifetime.is_over else ""
        return f"{self.lifetime.kind}({self.balancer.address!r}, model={self.settings.model!r}{closed})"

    def __reduce__(self) -> NoReturn:
        kind = self.lifetime.kind
        raise TypeError(
            f"this {kind} cannot be pickled or copied: its connections belong to this process; make the {kind} in each "
            "process that uses it"
        )

    def begin_call(self) -> float | None:
        """The time limit of calls that give none, in seconds; raises ClientClosed if the client cannot be used."""
        self.check_usable()
        return self.settings.timeout_s

    def close(self) -> None:
        """Ends running calls and closes the connections. May be called again."""
        if not self.lifetime.end() or self.lifetime.is_forked:
            return
        for server in self.balancer.servers:
            server.transport.close()
        self.lifetime.wake()
        self._control.shutdown(wait=True, cancel_futures=True)
        self.reader.close()

    def run_control(self, work: Callable[[], T]) -> Future[T]:
        """Runs `work` on a thread; it may wait for a server."""
        try:
            return self._control.submit(work)
        except RuntimeError as exc:
            self.check_usable()
            raise self.lifetime.closed(_ENDING) from exc

    def submit_reading(self, work: Callable[[], object]) -> None:
        """Runs `work` on a thread; it reads an input and must not raise."""
        try:
            self.reader.submit(work)
        except RuntimeError as exc:
            self.check_usable()
            raise self.lifetime.closed(_ENDING) from exc
