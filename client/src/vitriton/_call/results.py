"""The results of a call: one array, or a result for each image."""

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
    """The result for one image: either `embedding` or `error` is None.

    Attributes:
        index: the image's index in the caller's input, from 0.
        source: the path, the URL (without its query), or the kind of object.
        embedding: the vector (D,), or without pooling the tokens (T, D) or (C, h, w); float32, or the model's dtype
            with dtype="served".
        error: the reason why there is no embedding.
    """

    index: int
    source: str
    embedding: Floats | None = None
    error: InvalidImage | None = None


@dataclass(slots=True)
class Item:
    """An image that was read.

    Attributes:
        index: the image's index in the caller's input, from 0.
        source: the image's name, for messages.
        data: the bytes to send.
    """

    index: int
    source: str
    data: bytes


class Sink(Protocol):
    """Collects results, in any order."""

    @property
    def held(self) -> int:
        """The number of results that cannot be passed on yet."""

    def add(self, items: Sequence[Item], rows: Floats) -> None:
        """Copies `rows` (len(items), ...): their memory is used again."""

    def reject(self, index: int, source: str, error: InvalidImage) -> None:
        """Takes the error of an invalid image."""


class ArraySink:
    """Collects one array.

    Args:
        contract: the model's contract.
        dtype: the dtype of the array.
        total: the number of images in the call; None if it is unknown.
    """

    held = 0  # results are passed on only at the end

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
        """The array, (count, ...), in input order."""
        if count == 0:
            return self._contract.empty(self._dtype)
        if self._whole is not None:
            return self._whole[:count]  # the input may have had fewer images than its length
        shape = self._parts[0][1].shape[1:]
        whole = np.empty((count, *shape), self._dtype)
        for indices, rows in self._parts:
            whole[_selection(indices)] = rows
        return whole

    def _check(self, rows: Floats) -> None:
        """Raises ContractMismatch unless all rows have one shape, which a model with open dimensions may break."""
        if self._shape is None:
            self._shape = rows.shape[1:]
        elif rows.shape[1:] != self._shape:
            raise self._contract.mismatch(
                f"returned rows of shape {list(rows.shape[1:])} after {list(self._shape)}, which do not fit in one "
                'array; use on_error="return" or stream()'
            )


class ResultSink:
    """Collects a result for each image.

    Args:
        dtype: the dtype of the embeddings.
        ordered: whether results come in input order instead of as soon as they are ready.
        raises: whether an invalid image ends the call.
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
        """The number of results that wait for an earlier one."""
        return len(self._waiting)

    def add(self, items: Sequence[Item], rows: Floats) -> None:
        """See `Sink`."""
        # Each row is copied, so that a row that the caller keeps does not keep the whole reply in memory.
        for item, row in zip(items, rows, strict=True):
            self._put(Result(item.index, item.source, row.astype(self._dtype)))

    def reject(self, index: int, source: str, error: InvalidImage) -> None:
        """See `Sink`."""
        if self._raises:
            raise error
        self._put(Result(index, source, error=error))

    def take(self) -> list[Result]:
        """The results that are ready since the last call."""
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
    """The index for numpy: a slice if possible, as numpy copies that faster."""
    first, last = indices[0], indices[-1]
    return slice(first, last + 1) if indices == list(range(first, last + 1)) else indices
