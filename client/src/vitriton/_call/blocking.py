"""What the blocking client waits with: events of other threads, and the inputs of a call one after another."""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vitriton._call.run import Event, no_event

# Longer waits are split into pieces of this length, so that Ctrl-C takes effect after one, where a signal does not
# interrupt a wait (Windows, or a signal that another thread receives).
_LONGEST_WAIT_S = 0.5

# Inputs that cannot change. The caller may reuse all others (arrays, PIL images, file objects) for the next input, so
# the flow takes them before it asks for that.
_LASTING = (bytes, str, os.PathLike)


class Mailbox:
    """A queue of events from other threads for the thread of a call."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._next: Event | None = None
        self.put = self._events.put

    def wake(self) -> None:
        """Ends a wait."""
        self.put(no_event)

    def waiting(self) -> Iterator[Event]:
        """Takes all queued events."""
        if self._next is not None:
            event, self._next = self._next, None
            yield event
        while not self._events.empty():  # only one thread takes events
            yield self._events.get_nowait()

    def wait(self, timeout_s: float | None) -> None:
        """Returns when there is an event or the time is over; perhaps earlier."""
        try:
            self._next = self._events.get(
                timeout=_LONGEST_WAIT_S if timeout_s is None else min(timeout_s, _LONGEST_WAIT_S)
            )
        except queue.Empty:
            return


class Source:
    """Takes inputs from an iterable in the caller's thread.

    Args:
        inputs: the iterable of inputs.
        keep_error: whether an error of the iterable is kept, and not raised.

    Attributes:
        error: the exception that was kept.
    """

    def __init__(self, inputs: Iterable[Any], *, keep_error: bool = False) -> None:
        self._iterator = iter(inputs)
        self._keep_error = keep_error
        self.error: Exception | None = None

    def take(self, give: Callable[[Any], None]) -> bool:
        """Passes the next input to `give`; raises StopIteration at the end.

        An error of the iterable is raised, or with `keep_error` stored as `error`.
        """
        try:
            given = next(self._iterator)
        except StopIteration:
            raise
        except Exception as exc:
            if not self._keep_error:
                raise
            self.error = exc
            raise StopIteration from exc
        give(given)
        return True

    def close(self) -> None:
        """Does nothing, as there is nothing to release."""


class SourceThread:
    """Iterates over inputs once, a limited number ahead, in a thread with the caller's context variables.

    Args:
        inputs: the iterable of inputs, which may block.
        wake: the function that the thread calls when `take` has a new result.
        ahead: the most inputs to take before they are needed.

    Attributes:
        error: the exception that the iterable raised.
    """

    def __init__(self, inputs: Iterable[Any], wake: Callable[[], None], ahead: int) -> None:
        self._inputs = inputs
        self._wake = wake
        self._ahead = ahead
        self._changed = threading.Condition()
        self._given: deque[Any] = deque()
        self.error: BaseException | None = None
        self._ended = False
        self._closed = False
        self._in_source = True
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="vitriton-source", daemon=True
        )
        self._thread.start()

    def take(self, give: Callable[[Any], None]) -> bool:
        """Passes the next input to `give`, if there is one; returns whether there was.

        Raises:
            StopIteration: there are no more inputs, or the iterable raised `error`.
        """
        ended = self._ended  # read first: what the thread added before its end must not be missed
        if self._given:
            give(self._given[0])  # before it is removed, so that the thread does not continue too early
            with self._changed:
                self._given.popleft()
                self._changed.notify()
            return True
        if ended:
            raise StopIteration
        return False

    def close(self) -> None:
        """Ends the thread as soon as the iterable returns."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            blocked = self._in_source
        if not blocked:
            self._thread.join()

    def _run(self) -> None:
        try:
            for given in self._inputs:
                if not self._put(given):
                    return
        # The caller gets any error.
        except BaseException as exc:
            self.error = exc
        finally:
            self._ended = True
            self._wake()

    def _put(self, given: Any) -> bool:
        """Adds an input and waits until there is room; returns whether to take another."""
        limit = self._ahead if isinstance(given, _LASTING) else 1
        with self._changed:
            self._in_source = False
            self._given.append(given)
            first = len(self._given) == 1
        if first:
            self._wake()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._given) < limit)
            self._in_source = True
            return not self._closed
