"""What the asynchronous client waits with: events of other threads, and the inputs of a call one after another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any

from vitriton._call.plan import Given
from vitriton._call.run import Event, Run, no_event


class AsyncMailbox:
    """A queue of events from other threads for the task of a call."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._thread = threading.get_ident()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Adds an event; any thread may call it."""
        self._events.append(event)
        if self._waiter is None:
            return
        if threading.get_ident() == self._thread:
            self._wake()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no task waits
                self._loop.call_soon_threadsafe(self._wake)

    def wake(self) -> None:
        """Ends a wait, also one that is about to begin; any thread may call it."""
        self.put(no_event)

    def waiting(self) -> Iterable[Event]:
        """Takes all queued events."""
        while self._events:
            yield self._events.popleft()

    async def wait(self, timeout_s: float | None) -> None:
        """Returns when there is an event or the time is over; perhaps earlier."""
        waiter = self._waiter = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._wake)
        try:
            if not self._events:  # checked after the waiter is set, so that no event is missed
                await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncSource:
    """Takes inputs from an iterable or an async iterable, in the event loop.

    Args:
        given: the inputs.
        run: the run that takes them.
        mailbox: the events of the call.
        keep_error: whether an error of the iterable is kept, and not raised.

    Attributes:
        error: the exception that was kept.
    """

    def __init__(self, given: Given, run: Run, mailbox: AsyncMailbox, *, keep_error: bool = False) -> None:
        self.error: Exception | None = None
        self._keep_error = keep_error
        self._run = run
        self._mailbox = mailbox
        self._task: asyncio.Future[Any] | None = None
        self._async: AsyncIterator[Any] | None = None
        self._sync: Iterator[Any] | None = None
        if given.awaited:
            self._async = aiter(given.items)
        else:
            self._sync = iter(given.items)

    def take(self, give: Callable[[Any], None]) -> bool:
        """Passes the next input to `give`; False if it will come as an event. Raises StopIteration at the end."""
        if self._sync is not None:
            try:
                one = next(self._sync)
            except StopIteration:
                raise
            except Exception as exc:
                self._keep(exc)
                raise StopIteration from exc
            give(one)
            return True
        if self._task is None and self._async is not None:
            self._task = asyncio.ensure_future(self._async.__anext__())
            self._task.add_done_callback(lambda task: self._mailbox.put(partial(self._pulled, task)))
        return False

    async def close(self) -> None:
        """Ends a wait for the next input."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # The outcome no longer matters.
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    def _keep(self, error: Exception) -> None:
        """Raises an error of the iterable, or with `keep_error` stores it as `error`."""
        if not self._keep_error:
            raise error
        self.error = error

    def _pulled(self, task: asyncio.Future[Any]) -> None:
        self._task = None
        try:
            one = task.result()
        except StopAsyncIteration:
            self._run.end()
            return
        except Exception as exc:
            self._keep(exc)
            self._run.end()
            return
        self._run.give(one)
