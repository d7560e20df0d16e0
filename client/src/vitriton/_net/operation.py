"""A network operation of a thread: its deadline, its cancellation and its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from vitriton._deadline import Deadline
from vitriton._errors import VitritonError


class NetworkFailure(VitritonError):  # noqa: N818 - the names say what happened
    """The base class of network errors."""


class ConnectFailed(NetworkFailure):
    """No connection was made: the name is unknown, nothing listens, or TLS failed."""


class AddressRefused(ConnectFailed):
    """A host name resolves only to private addresses, and these are refused."""


class ConnectionLost(NetworkFailure):
    """The connection broke before the operation was done."""


class OutOfTime(NetworkFailure):
    """The operation's deadline has passed."""


class OperationCancelled(NetworkFailure):
    """`Operation.cancel` was called."""


class Operation:
    """One request and its response, with a deadline.

    A context manager: everything that the thread does on a `Network` inside belongs to the operation.

    Attributes:
        deadline: the deadline of all steps together.
        received: the number of bytes received from the server.
        max_received: the most bytes to receive; with more, the connection counts as lost. None: no limit.
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
        """Makes the current step and all further ones raise OperationCancelled; from any thread."""
        with self._lock:
            self.cancelled = True
            if self._interrupt is not None:
                self._interrupt()

    def receive(self, count: int) -> None:
        """Counts received bytes.

        Raises:
            ConnectionLost: more than `max_received` bytes came.
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
        """Begins a step that may wait; `interrupt` ends the wait."""
        with self._lock:
            if self.cancelled:
                raise OperationCancelled("canceled")
            self._interrupt = interrupt

    def end(self) -> None:
        """Ends the step: a cancellation no longer interrupts it."""
        with self._lock:
            self._interrupt = None
        if self.cancelled:
            raise OperationCancelled("canceled")


class _Thread(threading.local):
    operation: Operation | None = None


_thread = _Thread()


def current() -> Operation:
    """This thread's operation; one without limits if it has none."""
    return _thread.operation or Operation(Deadline.after(None))
