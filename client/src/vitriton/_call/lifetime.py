"""The time in which a client can be used: from its creation to its end, in one process."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from vitriton._errors import ClientClosed


class Waker(Protocol):
    """A wait that another thread can end."""

    def wake(self) -> None:
        """Ends the wait; may be called from any thread."""


class Lifetime:
    """The lifetime of a client, which begins when this is made. Safe to share between threads.

    Args:
        kind: the name of the client's class, for messages.
        address: the addresses of the client's servers, for messages.
        model: the name of the client's model, for messages.
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
        """Whether this process is a fork of the one that made the client, which owns the connections."""
        return os.getpid() != self._pid

    def check_usable(self) -> None:
        """Raises ClientClosed if the client can no longer be used."""
        if os.getpid() != self._pid:
            raise self.closed(
                f"this {self.kind} was made in process {self._pid}, and this is its fork {os.getpid()}: connections "
                f"do not survive a fork. Make the {self.kind} after the fork, in the process that uses it, or pass it "
                "to the worker as an argument: its pickle makes connections of its own"
            )
        if self._closing.is_set():
            raise self.closed(f"this {self.kind} is closed; make a new one")

    def closed(self, text: str) -> ClientClosed:
        """The error for a client that can no longer be used."""
        return ClientClosed(text, address=self._address, model=self._model)

    def end(self) -> bool:
        """Ends the lifetime and every `wait`; returns whether this was the first call."""
        with self._lock:
            first = not self._closing.is_set()
            self._closing.set()
        return first

    def wait(self, timeout_s: float) -> None:
        """Waits for the end, at most `timeout_s` seconds."""
        self._closing.wait(timeout_s)

    def wake_on_end(self, waker: Waker) -> None:
        """Registers `waker` for `wake`, as long as something else refers to it."""
        self._wakers.add(waker)

    def wake(self) -> None:
        """Wakes all registered wakers."""
        for waker in list(self._wakers):
            waker.wake()
