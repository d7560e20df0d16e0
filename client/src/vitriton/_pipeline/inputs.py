"""The inputs of a pipeline's call, and the iterator that it returns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitriton._images.sources import as_images

if TYPE_CHECKING:
    from vitriton._call.results import Result

# A shorter text is more likely the name of a missing file: the smallest image, a GIF of one pixel, has 48 characters.
_BASE64 = re.compile(r"(?=.{48})[A-Za-z0-9+/\s]+={0,2}\s*", re.DOTALL)


class FeatureIterator(Iterator[Any]):
    """The answers for a generator or a data set, one by one, in input order, each converted on request.

    As in the reference, `iter` on the answers for a data set starts again, and `len` is the length of the data set.

    Args:
        start: the function that starts to embed; nothing happens before the first result is requested.
        convert: the function that converts rows, (1, ...), to an answer.
        total: the number of images; None if it is unknown.
        restarts: whether `start` may be called again.
    """

    def __init__(
        self,
        start: Callable[[], Generator[Result, None, None]],
        convert: Callable[[NDArray[Any]], Any],
        total: int | None,
        *,
        restarts: bool,
    ) -> None:
        self._start = start
        self._convert = convert
        self._total = total
        self._restarts = restarts
        self._running = start()

    def __iter__(self) -> FeatureIterator:
        if self._restarts:
            self._running.close()
            self._running = self._start()
        return self

    def __next__(self) -> Any:
        result = next(self._running)
        if result.error is not None:
            raise result.error
        assert result.embedding is not None
        return self._convert(result.embedding[np.newaxis])

    def __len__(self) -> int:
        if self._total is None:
            raise TypeError("the number of images is not known: they come from an iterator")
        return self._total

    def close(self) -> None:
        """Ends running requests; there are no more answers, unless `iter` starts again on a data set."""
        self._running.close()


def is_single(inputs: Any) -> bool:
    """Whether the inputs are one image."""
    try:
        return as_images(inputs)[0] is not inputs  # as_images makes a list of a single image
    except TypeError:  # a data set without __iter__
        return False


def items_of(inputs: Any) -> Callable[[], Iterable[Any]]:
    """A function that starts an iteration over a data set.

    Raises:
        TypeError: `inputs` is not a data set.
    """
    if isinstance(inputs, (Mapping, Set)):
        raise TypeError(
            f"inputs has the type {type(inputs).__name__}, which has no order to assign answers to images; give a list"
        )
    if hasattr(type(inputs), "__iter__"):
        return lambda: inputs
    if hasattr(type(inputs), "__getitem__") and hasattr(type(inputs), "__len__"):
        # Uses the length, as not every data set ends an iteration with an IndexError.
        return lambda: (inputs[index] for index in range(len(inputs)))
    raise TypeError(
        f"inputs has the type {type(inputs).__name__}; give an image (a path, a URL, base64 text, a PIL image, ...), "
        "or a list, an iterator or a data set of images"
    )


def readable(image: Any) -> Any:
    """Converts bare base64 text, which the reference's `load_image` takes, to a data URI, which `Client` takes."""
    if isinstance(image, str) and _BASE64.fullmatch(image) and not os.path.isfile(image):  # noqa: PTH113 - see below
        return f"data:;base64,{image}"  # Path.is_file raises for a text that is too long for a path
    return image
