"""The inputs of a pipeline's call, and the iterator that it returns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any, NoReturn

from vitriton._pipeline.tasks import PipelineTask

if TYPE_CHECKING:
    from vitriton._call.results import Result

# A shorter text is more likely the name of a missing file: the smallest image, a GIF of one pixel, has 48 characters.
_BASE64 = re.compile(r"(?=.{48})[A-Za-z0-9+/\s]+={0,2}\s*", re.DOTALL)


class FeatureIterator(Iterator[Any]):
    """The answers for a generator or a data set, one by one, in input order, each converted on request.

    As in transformers, `iter` on the answers for a data set starts again, and `len` is the length of the data set.

    Args:
        start: the function that starts to embed; nothing happens before the first result is requested.
        convert: the function that converts a result to an answer, or raises its error.
        total: the number of inputs; None if it is unknown.
        name: the name of the model, for messages.
        restarts: whether `start` may be called again.
    """

    def __init__(
        self,
        start: Callable[[], Generator[Result, None, None]],
        convert: Callable[[Result], Any],
        total: int | None,
        *,
        name: str,
        restarts: bool,
    ) -> None:
        self._start = start
        self._convert = convert
        self._total = total
        self._name = name
        self._restarts = restarts
        self._running = start()

    def __iter__(self) -> FeatureIterator:
        if self._restarts:
            self._running.close()
            self._running = self._start()
        return self

    def __next__(self) -> Any:
        return self._convert(next(self._running))

    def __len__(self) -> int:
        if self._total is None:
            raise TypeError("the number of inputs is not known: they come from an iterator")
        return self._total

    def __getitem__(self, index: object) -> NoReturn:
        raise TypeError("the answers are computed one by one, in input order; list(...) makes a list of them")

    def __repr__(self) -> str:
        number = "answers" if self._total is None else f"{self._total} answers"
        return f"<{number} of model {self._name}, computed one by one: list(...) makes a list of them>"

    def close(self) -> None:
        """Ends running requests; there are no more answers, unless `iter` starts again on a data set."""
        self._running.close()


def items_of(inputs: Any, task: PipelineTask) -> Callable[[], Iterable[Any]]:
    """A function that starts an iteration over a data set.

    Args:
        inputs: the data set.
        task: the task, for messages.

    Raises:
        TypeError: `inputs` is not a data set.
    """
    if isinstance(inputs, (Mapping, Set)):
        raise TypeError(
            f"inputs has the type {type(inputs).__name__}, which has no order to assign answers to {task.tower}s; give "
            "a list"
        )
    encoded = isinstance(inputs, (bytes, bytearray, memoryview))  # they can be iterated over, and give numbers
    if hasattr(type(inputs), "__iter__") and not encoded:
        return lambda: inputs
    if hasattr(type(inputs), "__getitem__") and hasattr(type(inputs), "__len__") and not encoded:
        # Uses the length, as not every data set ends an iteration with an IndexError.
        return lambda: (inputs[index] for index in range(len(inputs)))
    raise TypeError(
        f"inputs has the type {type(inputs).__name__}; give {task.one}, or a list, an iterator or a data set of "
        f"{task.tower}s"
    )


def readable(image: Any) -> Any:
    """Converts bare base64 text, which transformers' `load_image` takes, to a data URI, which `Client` takes."""
    if isinstance(image, str) and _BASE64.fullmatch(image) and not os.path.isfile(image):  # noqa: PTH113 - see below
        return f"data:;base64,{image}"  # Path.is_file raises for a text that is too long for a path
    return image
