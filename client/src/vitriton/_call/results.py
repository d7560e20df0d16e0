"""The results of a call: one array, or a result for each input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vitriton._errors import InvalidInput
from vitriton._served.contract import Contract

Floats = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Result:
    """The result for one image or text: either `embedding` or `error` is None.

    Attributes:
        index: the index in the caller's input, from 0.
        source: the path, the URL (without its query), or the kind of object; empty for a text, which may be secret.
        embedding: the vector (D,), or without pooling the tokens (T, D) or (C, h, w); float32, or the model's dtype
            with dtype="served".
        error: the reason why there is no embedding.
        truncated: whether the text was cut to the model's largest number of tokens; False for an image.
        tokens: the number of the text's tokens that the model used; None for an image, and where there is an error.
        whole_tokens: the number of tokens of the whole text, which is larger if it was cut; None as `tokens`.
    """

    index: int
    source: str
    embedding: Floats | None = None
    error: InvalidInput | None = None
    truncated: bool = False
    tokens: int | None = None
    whole_tokens: int | None = None


@dataclass(slots=True)
class Item:
    """An input that can be sent.

    Attributes:
        index: the input's index in the caller's input, from 0.
        source: the input's name, for messages.
        data: the bytes to send.
    """

    index: int
    source: str
    data: bytes


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        rows: the embeddings: an array (B, ...), or without pooling of texts a list of arrays (T, D).
        tokens: the number of tokens of each text that the model used; empty for images.
        whole_tokens: the number of tokens of each whole text; empty for images.
    """

    rows: Any
    tokens: Sequence[int] = ()
    whole_tokens: Sequence[int] = ()

    @property
    def truncated(self) -> int:
        """The number of texts that were cut."""
        return sum(used != whole for used, whole in zip(self.tokens, self.whole_tokens, strict=True))


class Sink(Protocol):
    """Collects results, in any order."""

    @property
    def held(self) -> int:
        """The number of results that cannot be passed on yet."""

    def add(self, items: Sequence[Item], answer: Answer) -> None:
        """Copies the rows of an answer, one for each item: their memory is used again."""

    def reject(self, index: int, source: str, error: InvalidInput) -> None:
        """Takes the error of an invalid input."""

    def result(self, count: int) -> Any:
        """The result of a call with `count` inputs."""


class ArraySink:
    """Collects one array.

    Args:
        contract: the model's contract.
        dtype: the dtype of the array.
        total: the number of inputs in the call; None if it is unknown.
    """

    held = 0  # results are passed on only at the end

    def __init__(self, contract: Contract, dtype: np.dtype[Any], total: int | None) -> None:
        self._contract = contract
        self._dtype = dtype
        self._total = total
        self._whole: Floats | None = None
        self._parts: list[tuple[list[int], Floats]] = []
        self._shape: tuple[int, ...] | None = None

    def add(self, items: Sequence[Item], answer: Answer) -> None:
        """See `Sink`."""
        rows: Floats = answer.rows
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

    def reject(self, index: int, source: str, error: InvalidInput) -> None:
        """See `Sink`."""
        raise error

    def result(self, count: int) -> Floats:
        """The array, (count, ...), in input order."""
        if count == 0:
            return self._contract.empty(self._dtype)
        if self._whole is not None:
            return self._whole[:count]  # there may have been fewer inputs than the length said
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
    """Collects a result for each input.

    Args:
        dtype: the dtype of the embeddings.
        ordered: whether results come in input order instead of as soon as they are ready.
        raises: whether an invalid input ends the call.
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

    def add(self, items: Sequence[Item], answer: Answer) -> None:
        """See `Sink`."""
        unknown = (None,) * len(items)
        tokens, whole = answer.tokens or unknown, answer.whole_tokens or unknown
        # Each row is copied, so that a row that the caller keeps does not keep the whole reply in memory.
        for item, row, used, given in zip(items, answer.rows, tokens, whole, strict=True):
            found = Result(item.index, item.source, row.astype(self._dtype), None, used != given, used, given)
            self._put(found)

    def reject(self, index: int, source: str, error: InvalidInput) -> None:
        """See `Sink`."""
        if self._raises:
            raise error
        self._put(Result(index, source, error=error))

    def result(self, count: int) -> Any:
        """All results."""
        return self.take()

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


class ListSink(ResultSink):
    """Collects a list of arrays, which have different shapes.

    Args:
        dtype: the dtype of the arrays.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__(dtype, ordered=True, raises=True)

    def result(self, count: int) -> Any:
        """The arrays, in input order."""
        return [result.embedding for result in self.take()]


def _selection(indices: list[int]) -> Any:
    """The index for numpy: a slice if possible, as numpy copies that faster."""
    first, last = indices[0], indices[-1]
    return slice(first, last + 1) if indices == list(range(first, last + 1)) else indices
