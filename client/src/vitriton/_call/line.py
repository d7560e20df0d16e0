"""The images and the requests of one call, in the order in which they have their turn."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator

from vitriton._call.actions import Batch
from vitriton._call.results import Item
from vitriton._deadline import Deadline


class Ready:
    """Images that were read, and are in no request yet.

    Attributes:
        items: these images.
        byte_size: the size of these images, in bytes.
        since_s: since when the first of them waits.
    """

    __slots__ = ("byte_size", "items", "since_s")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.byte_size = 0
        self.since_s = 0.0

    def add(self, item: Item, now_s: float) -> None:
        """Takes one more."""
        if not self.items:
            self.since_s = now_s
        self.items.append(item)
        self.byte_size += len(item.data)

    def cut(self, max_count: int, max_bytes: int) -> tuple[list[Item], int]:
        """As many images as fit into one request, at least one, and their size in bytes."""
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
    """The requests of one call that are not answered yet.

    Attributes:
        running: those that are with a server.
        waiting: those that are to be sent again.
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
        """The place at the end."""
        return next(self._turns)

    def due(self, now_s: float) -> list[Batch]:
        """Those that are to be sent again now."""
        return [batch for batch in self.waiting if batch.due_s <= now_s]

    def late(self, now_s: float) -> list[Batch]:
        """Those whose time is over."""
        if self.is_empty:
            return []
        return [batch for batch in (*self.running, *self.waiting) if batch.deadline.ends_at <= now_s]

    def next_s(self) -> float:
        """When the next is due or late."""
        next_s = math.inf
        for batch in self.running:
            next_s = min(next_s, batch.deadline.ends_at)
        for batch in self.waiting:
            next_s = min(next_s, batch.deadline.ends_at, batch.due_s)
        return next_s

    def latest_end(self, batch: Batch, request_s: float | None) -> Deadline:
        """When the batch's time is over if each request before it takes all of its own, `request_s` seconds."""
        if request_s is None or len(self.running) + len(self.waiting) == 1:
            return batch.deadline
        before = sum(other.turn < batch.turn for other in self)
        return batch.deadline.later(before * request_s) if before else batch.deadline

    def renew_behind(self, answered: Batch, now_s: float) -> None:
        """Gives the requests behind one that was answered their time anew.

        Not those before it: one that is overtaken again and again would otherwise never be missed.
        """
        for batch in self:
            if batch.turn > answered.turn:
                batch.deadline.renew(now_s)

    def that_tells(self, deadline: Deadline) -> Batch | None:
        """Of the requests that share `deadline`, one that failed before: it tells why the deadline was missed.

        One that merely got no answer, perhaps to an attempt that had hardly any time, has less to tell.
        """
        return first_failed([batch for batch in self if batch.deadline is deadline])

    def clear(self) -> None:
        """Gives all of them up."""
        for batch in self:
            # a frame may hold the batch for longer
            batch.items, batch.error, batch.attempt = [], None, None
        self.running.clear()
        self.waiting.clear()


def first_failed(batches: list[Batch]) -> Batch | None:
    """The first that has failed before, if there is one."""
    return next((batch for batch in batches if batch.error is not None), None)
