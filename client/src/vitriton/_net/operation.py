"""What a thread does on the network: until when, whether it is still wanted, and what became of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from vitriton._deadline import Deadline
from vitriton._errors import VitritonError


class NetworkFailure(VitritonError):  # noqa: N818 - the names say what happened
    """Base of what the network does to an operation."""


class ConnectFailed(NetworkFailure):
    """There is no connection: the name is not known, nobody listens, or TLS did not come about."""


class AddressRefused(ConnectFailed):
    """A host name leads to addresses that are not of the public internet, and these are refused."""


class ConnectionLost(NetworkFailure):
    """There was a connection, and it broke before the operation was done."""


class OutOfTime(NetworkFailure):
    """The operation's deadline is over."""


class OperationCancelled(NetworkFailure):
    """`Operation.cancel` was called."""


class Operation:
    """One request and its response: until when, and whether it is still wanted.

    A context manager for the thread that does it: all that this thread does on a `Network` inside belongs to it.

    Attributes:
        deadline: of all steps together.
        received: bytes that have come from the server.
        max_received: above which the connection counts as lost, whatever a parser makes of the bytes; None is no limit.
        cancelled: whether `cancel` was called.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.received = 0
        self.max_received: int | None = None
        self.cancelled = False
        self._lock = threading.Lock()
        self._interrupt: Callable[[], object] | None = None

    def cancel(self) -> None:
        """Makes the step that is running, and each further one, raise OperationCancelled; from any thread."""
        with self._lock:
            self.cancelled = True
            if self._interrupt is not None:
                self._interrupt()

    def receive(self, count: int) -> None:
        """So many bytes have come.

        Raises:
            ConnectionLost: they are too many.
        """
        self.received += count
        if self.max_received is not None and self.received > self.max_received:
            raise ConnectionLost(f"more than {self.max_received} bytes came")

    def __enter__(self) -> Operation:
        _thread.operation = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _thread.operation = None

    def begin(self, interrupt: Callable[[], object]) -> None:
        """A step begins that may wait; `interrupt` makes it stop waiting."""
        with self._lock:
            if self.cancelled:
                raise OperationCancelled("cancelled")
            self._interrupt = interrupt

    def end(self) -> None:
        """The step is over: what it waited for is no longer this operation's to interrupt."""
        with self._lock:
            self._interrupt = None
        if self.cancelled:
            raise OperationCancelled("cancelled")


class _Thread(threading.local):
    operation: Operation | None = None


_thread = _Thread()


def current() -> Operation:
    """This thread's operation; one without limits where it does not do any."""
    return _thread.operation or Operation(Deadline.after(None))
