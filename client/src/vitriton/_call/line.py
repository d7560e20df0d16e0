"""The inputs and the requests of one call, in the order in which they are sent."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from vitriton._call.actions import Batch
from vitriton._call.results import Item
from vitriton._deadline import Deadline
from vitriton._images.reading import is_slow
from vitriton._options import Options


class Reading(dict[int, str]):
    """The names of the inputs that are being read, by index.

    Attributes:
        exclusive: the index of the caller's object that is being read, which may change afterwards; None if there is
            none.
    """

    __slots__ = ("exclusive",)

    def __init__(self) -> None:
        self.exclusive: int | None = None

    def begin(self, index: int, source: str, given: Any) -> None:
        """Adds an input."""
        self[index] = source
        if not is_slow(given) and not isinstance(given, bytes):
            self.exclusive = index

    def taken(self, index: int) -> None:
        """Notes that the caller may change an object."""
        if self.exclusive == index:
            self.exclusive = None

    def end(self, index: int) -> str:
        """Removes an input; returns its name."""
        self.taken(index)
        return self.pop(index)


class Ready:
    """The inputs that are read and not yet in a request.

    Attributes:
        items: the inputs.
        byte_size: the size of these inputs, in bytes.
        largest_bytes: the size of the largest input so far, in bytes; 0 before the first.
        since_s: the time since which the first input waits, on the client's clock, in seconds.
    """

    __slots__ = ("byte_size", "items", "largest_bytes", "since_s")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.byte_size = 0
        self.largest_bytes = 0
        self.since_s = 0.0

    def add(self, item: Item, now_s: float) -> None:
        """Adds an input."""
        if not self.items:
            self.since_s = now_s
        self.items.append(item)
        size = len(item.data)
        self.byte_size += size
        if size > self.largest_bytes:
            self.largest_bytes = size

    def has_memory(self, reading: int, sent_bytes: int, options: Options) -> bool:
        """Whether another input fits, if each that is being read is as large as the largest so far.

        Args:
            reading: the number of inputs that are being read.
            sent_bytes: the size of the inputs that are in requests, in bytes.
            options: the limits.
        """
        if not self.largest_bytes:
            return reading < options.read_threads
        return self.byte_size + sent_bytes + reading * self.largest_bytes < options.max_held_bytes

    def cut(self, max_count: int, max_bytes: int) -> tuple[list[Item], int]:
        """Removes as many inputs as fit into one request, at least one; returns them and their size in bytes."""
        ready = self.items
        items: list[Item] = []
        used = 0
        while ready and len(items) < max_count:
            size = len(ready[0].data)
            if items and used + size > max_bytes:
                break
            used += size
            items.append(ready.popleft())
        self.byte_size -= used
        return items, used


class Line:
    """The unanswered requests of one call.

    Attributes:
        running: the requests that were sent.
        waiting: the requests that wait for a retry.
    """

    __slots__ = ("_turns", "running", "waiting")

    def __init__(self) -> None:
        self.running: set[Batch] = set()
        self.waiting: list[Batch] = []
        self._turns = itertools.count()

    @property
    def is_empty(self) -> bool:
        """Whether all requests are answered."""
        return not self.running and not self.waiting

    def __iter__(self) -> Iterator[Batch]:
        return iter((*self.running, *self.waiting))

    def next_turn(self) -> int:
        """The number of the next place, at the end of the line."""
        return next(self._turns)

    def due(self, now_s: float) -> list[Batch]:
        """The requests whose retry is due."""
        return [batch for batch in self.waiting if batch.due_s <= now_s]

    def late(self, now_s: float) -> list[Batch]:
        """The requests whose deadline is over."""
        if self.is_empty:
            return []
        return [batch for batch in (*self.running, *self.waiting) if batch.deadline.ends_at <= now_s]

    def next_s(self) -> float:
        """The time at which the next request is due or late, in seconds."""
        next_s = math.inf
        for batch in self.running:
            next_s = min(next_s, batch.deadline.ends_at)
        for batch in self.waiting:
            next_s = min(next_s, batch.deadline.ends_at, batch.due_s)
        return next_s

    def latest_end(self, batch: Batch, request_s: float | None) -> Deadline:
        """The batch's deadline if each request before it takes all of its time, `request_s` seconds."""
        if request_s is None or len(self.running) + len(self.waiting) == 1:
            return batch.deadline
        before = sum(other.turn < batch.turn for other in self)
        return batch.deadline.later(before * request_s) if before else batch.deadline

    def renew_behind(self, answered: Batch, now_s: float) -> None:
        """Renews the deadlines of the requests behind one that was answered.

        The requests before it keep theirs: otherwise one that others overtake again and again would never be late.
        """
        for batch in self:
            if batch.turn > answered.turn:
                batch.deadline.renew(now_s)

    def failed_before(self, deadline: Deadline) -> Batch | None:
        """A request that shares `deadline` and has failed before; None if there is none.

        Its error explains the missed deadline better than a request that got no answer, perhaps in too short a time.
        """
        return first_failed([batch for batch in self if batch.deadline is deadline])

    def clear(self) -> None:
        """Drops all requests."""
        for batch in self:
            # a stack frame may keep the batch alive for longer
            batch.items, batch.error, batch.attempt = [], None, None
        self.running.clear()
        self.waiting.clear()


def first_failed(batches: list[Batch]) -> Batch | None:
    """The first batch that has failed before; None if there is none."""
    return next((batch for batch in batches if batch.error is not None), None)
