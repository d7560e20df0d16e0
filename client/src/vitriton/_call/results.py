"""What the user gets: one array, or a result for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitriton._errors import InvalidImage
from vitriton._served.contract import Contract

Floats = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Result:
    """What became of one image: either `embedding` or `error` is None.

    Attributes:
        index: in what the caller gave, from 0.
        source: the path, the URL (without its query), or the kind of object.
        embedding: (D,), or without pooling (T, D) or (C, h, w); float32, or the server's dtype if it was asked for.
        error: why there is none.
    """

    index: int
    source: str
    embedding: Floats | None = None
    error: InvalidImage | None = None


@dataclass(slots=True)
class Item:
    """An image that was read.

    Attributes:
        index: in what the caller gave.
        source: its name, for messages.
        data: as it goes over the wire.
    """

    index: int
    source: str
    data: bytes


class Sink(Protocol):
    """Takes what comes back, in any order."""

    @property
    def held(self) -> int:
        """Results that cannot be passed on yet."""

    def add(self, items: Sequence[Item], rows: Floats) -> None:
        """Takes `rows` (len(items), ...), which are copied: their memory is used again."""

    def reject(self, index: int, source: str, error: InvalidImage) -> None:
        """Takes an image that cannot be used."""


class ArraySink:
    """Makes one array.

    Args:
        contract: of the model.
        dtype: of the array.
        total: images in the call, None where it is not known.
    """

    held = 0  # all are wanted at the end

    def __init__(self, contract: Contract, dtype: np.dtype[Any], total: int | None) -> None:
        self._contract = contract
        self._dtype = dtype
        self._total = total
        self._whole: Floats | None = None
        self._parts: list[tuple[list[int], Floats]] = []
        self._shape: tuple[int, ...] | None = None

    def add(self, items: Sequence[Item], rows: Floats) -> None:
        """See `Sink`."""
        self._check(rows)
        indices = [item.index for item in items]
        if self._total is None or self._total < len(rows):
            self._parts.append((indices, rows.astype(self._dtype)))
            return
        if self._whole is None:
            if len(rows) == self._total:
                self._whole = rows.astype(self._dtype)
                if indices == list(range(self._total)):
                    return
            self._whole = np.empty((self._total, *rows.shape[1:]), self._dtype)
        self._whole[_selection(indices)] = rows

    def reject(self, index: int, source: str, error: InvalidImage) -> None:
        """See `Sink`."""
        raise error

    def result(self, count: int) -> Floats:
        """(count, ...) in input order."""
        if count == 0:
            return self._contract.empty(self._dtype)
        if self._whole is not None:
            return self._whole[:count]  # fewer than their number said
        shape = self._parts[0][1].shape[1:]
        whole = np.empty((count, *shape), self._dtype)
        for indices, rows in self._parts:
            whole[_selection(indices)] = rows
        return whole

    def _check(self, rows: Floats) -> None:
        """All rows must have one shape; a model with open dimensions may break that."""
        if self._shape is None:
            self._shape = rows.shape[1:]
        elif rows.shape[1:] != self._shape:
            raise self._contract.mismatch(
                f"returned rows of shape {list(rows.shape[1:])} after {list(self._shape)}, which do not fit in one "
                'array; use on_error="return" or stream()'
            )


class ResultSink:
    """Makes a result for each image.

    Args:
        dtype: of the embeddings.
        ordered: whether they come out in input order, or as they are ready.
        raises: whether an image that cannot be used ends the call.
    """

    def __init__(self, dtype: np.dtype[Any], *, ordered: bool, raises: bool) -> None:
        self._dtype = dtype
        self._ordered = ordered
        self._raises = raises
        self._next = 0
        self._waiting: dict[int, Result] = {}
        self._ready: list[Result] = []

    @property
    def held(self) -> int:
        """See `Sink`: those that wait for an earlier one."""
        return len(self._waiting)

    def add(self, items: Sequence[Item], rows: Floats) -> None:
        """See `Sink`."""
        # Each row is an array of its own: one that is kept must not keep all of its request.
        for item, row in zip(items, rows, strict=True):
            self._put(Result(item.index, item.source, row.astype(self._dtype)))

    def reject(self, index: int, source: str, error: InvalidImage) -> None:
        """See `Sink`."""
        if self._raises:
            raise error
        self._put(Result(index, source, error=error))

    def take(self) -> list[Result]:
        """What is ready since the last time."""
        ready, self._ready = self._ready, []
        return ready

    def _put(self, result: Result) -> None:
        if not self._ordered:
            self._ready.append(result)
            return
        self._waiting[result.index] = result
        while self._next in self._waiting:
            self._ready.append(self._waiting.pop(self._next))
            self._next += 1


def _selection(indices: list[int]) -> Any:
    """For numpy: a slice where it can be, which copies faster."""
    first, last = indices[0], indices[-1]
    return slice(first, last + 1) if indices == list(range(first, last + 1)) else indices
