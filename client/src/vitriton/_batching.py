"""How images are grouped into requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], size: Callable[[T], int], *, max_items: int, max_bytes: int) -> Iterator[list[T]]:
    """Groups `items` in order, as many to a group as both limits allow; lazily, one group in memory at a time.

    Args:
        items: what is grouped.
        size: bytes of one item.
        max_items: in a group.
        max_bytes: in a group; an item that is larger makes a group of its own.
    """
    group: list[T] = []
    used = 0
    for item in items:
        item_bytes = size(item)
        if group and (len(group) == max_items or used + item_bytes > max_bytes):
            yield group
            group, used = [], 0
        group.append(item)
        used += item_bytes
    if group:
        yield group
