"""From when to when a client can be used. Safe to share between threads."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from vitriton._errors import ClientClosed


class Waker(Protocol):
    """Somebody who waits."""

    def wake(self) -> None:
        """Ends the wait; may be called from any thread."""


class Lifetime:
    """See the module. Begins with this.

    Args:
        kind: the name of the client's class, for messages, as all of these.
        address: the addresses of its servers.
        model: the name of its model.
    """

    def __init__(self, kind: str, address: str, model: str) -> None:
        self.kind = kind
        self._address = address
        self._model = model
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._wakers: weakref.WeakSet[Waker] = weakref.WeakSet()

    @property
    def is_over(self) -> bool:
        """Whether the client was closed."""
        return self._closing.is_set()

    @property
    def is_forked(self) -> bool:
        """Whether this is another process than the client was made in: the connections belong to that one."""
        return os.getpid() != self._pid

    def check_usable(self) -> None:
        """Raises ClientClosed where the client can no longer be used."""
        if os.getpid() != self._pid:
            raise self.closed(
                f"this {self.kind} was made in process {self._pid}, and this is its fork {os.getpid()}: connections "
                f"do not survive a fork. Make the {self.kind} after the fork, in the process that uses it"
            )
        if self._closing.is_set():
            raise self.closed(f"this {self.kind} is closed; make a new one")

    def closed(self, text: str) -> ClientClosed:
        """The error that says so."""
        return ClientClosed(text, address=self._address, model=self._model)

    def end(self) -> bool:
        """Ends it, and what waits in `wait`; returns whether this was the first to do so."""
        with self._lock:
            first = not self._closing.is_set()
            self._closing.set()
        return first

    def wait(self, timeout_s: float) -> None:
        """Waits for its end, or until the time is over."""
        self._closing.wait(timeout_s)

    def wake_on_end(self, waker: Waker) -> None:
        """`wake` is to call `waker`, as long as its owner keeps it."""
        self._wakers.add(waker)

    def wake(self) -> None:
        """Wakes those who wait."""
        for waker in list(self._wakers):
            waker.wake()
