"""What the calls of a client share, for the blocking and the asynchronous client."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from vitriton._call.balance import Balancer
from vitriton._call.lifetime import Lifetime
from vitriton._call.retry import Backoff
from vitriton._call.service import Services
from vitriton._call.settings import Settings
from vitriton._call.stats import Counters
from vitriton._call.tracing import OpenTelemetryTracer
from vitriton._deadline import Deadline
from vitriton._images.reading import Reader
from vitriton._wire.connect import connect
from vitriton._wire.transport import Awaitable, Transport
from vitriton._wire.workers import Workers

T = TypeVar("T")

_CONTROL_THREADS = 4
_CLOSE_S = 5.0  # for the threads of closed connections
_ENDING = "the program is ending: its main thread has returned; join the threads that use a client before that"


class _ControlTask(Generic[T]):
    """Work whose result or exception goes to a future."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.deadline = Deadline.after(None)
        self.future: Future[T] = Future()
        self._work = work

    def run(self) -> None:
        """See `Task`."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._work()
        except BaseException as exc:  # it is raised where the future is waited for
            self.future.set_exception(exc)
        else:
            self.future.set_result(result)

    def expire(self) -> None:
        """See `Task`."""

    def cancel(self) -> None:
        """See `Task`."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


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
        self._address = None if transport is not None else address if isinstance(address, str) else tuple(address)
        self.lifetime = Lifetime(kind, self.balancer.address, settings.model)
        self.check_usable = self.lifetime.check_usable
        self.awaitables = {
            server: server.transport for server in self.balancer.servers if isinstance(server.transport, Awaitable)
        }
        self.services = Services(settings, self.balancer, self.lifetime, clock)
        self.reader = Reader(self.options)
        self._control = Workers(_CONTROL_THREADS, "vitriton-control")

    def __repr__(self) -> str:
        closed = ", closed" if self.lifetime.is_over else ""
        return f"{self.lifetime.kind}({self.balancer.address!r}, model={self.settings.model!r}{closed})"

    def arguments(self) -> dict[str, Any]:
        """The arguments that the client was made with, for a pickle or a copy, which has connections of its own.

        Raises:
            TypeError: one of them cannot be pickled.
            ClientClosed: the client is closed, or was made before a fork.
        """
        self.check_usable()
        refused = f"this {self.lifetime.kind} cannot be pickled or copied: "
        if self._address is None:
            raise TypeError(f"{refused}it has a transport, which belongs to this process; make one in each process")
        arguments = {"address": self._address, **vars(self.settings), "headers": dict(self.settings.headers)}
        for name, value in arguments.items():
            try:
                pickle.dumps(value)
            except Exception as exc:  # whatever an object's own __reduce__ raises
                raise TypeError(
                    f"{refused}its {name} cannot be ({exc}); a function has to be at the top of a module"
                ) from exc
        return arguments

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
        self._control.close()
        self._control.join(_CLOSE_S)  # a call of gRPC that a signal has struck may never end
        self.reader.close()

    def run_control(self, work: Callable[[], T]) -> Future[T]:
        """Runs `work` on a thread; it may wait for a server."""
        task = _ControlTask(work)
        try:
            self._control.submit(task)
        except RuntimeError as exc:
            self.check_usable()
            raise self.lifetime.closed(_ENDING) from exc
        return task.future

    def submit_reading(self, work: Callable[[], object]) -> None:
        """Runs `work` on a thread; it reads an input and must not raise."""
        try:
            self.reader.submit(work)
        except RuntimeError as exc:
            self.check_usable()
            raise self.lifetime.closed(_ENDING) from exc
