"""What a pipeline is called with, and the iterator that it returns."""

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

# Shorter ones are rather names of files that are missing: the smallest image there is, a GIF of one pixel, has 48.
_BASE64 = re.compile(r"(?=.{48})[A-Za-z0-9+/\s]+={0,2}\s*", re.DOTALL)


class FeatureIterator(Iterator[Any]):
    """The answers for a generator or a data set, one by one, in its order; each is made when it is asked for.

    As the reference's: `iter` on the answers for a data set begins anew; `len` is that of the data set.

    Args:
        start: begins to embed; nothing happens before the first result is asked for.
        convert: makes an answer of (1, ...) rows.
        total: images, None where it is not known.
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
        """Ends what is running; there are no more answers, until `iter` begins anew with a data set."""
        self._running.close()


def is_single(inputs: Any) -> bool:
    """Whether a pipeline is called with one image."""
    try:
        return as_images(inputs)[0] is not inputs  # it makes a list of one image
    except TypeError:  # a data set without __iter__
        return False


def items_of(inputs: Any) -> Callable[[], Iterable[Any]]:
    """What begins to go through a data set.

    Raises:
        TypeError: it is none.
    """
    if isinstance(inputs, (Mapping, Set)):
        raise TypeError(
            f"inputs is a {type(inputs).__name__}, whose order does not tell which image is which; give a list"
        )
    if hasattr(type(inputs), "__iter__"):
        return lambda: inputs
    if hasattr(type(inputs), "__getitem__") and hasattr(type(inputs), "__len__"):
        # By its indices, as not every data set ends iteration with an IndexError
        return lambda: (inputs[index] for index in range(len(inputs)))
    raise TypeError(
        f"inputs is a {type(inputs).__name__}; give an image (a path, a URL, base64 text, a PIL image, ...), or a "
        "list, an iterator or a data set of images"
    )


def readable(image: Any) -> Any:
    """The image as `Client` takes it: bare base64 text, which the reference's `load_image` knows, as a data URI."""
    if isinstance(image, str) and _BASE64.fullmatch(image) and not os.path.isfile(image):  # noqa: PTH113 - see below
        return f"data:;base64,{image}"  # Path.is_file raises for a text that is too long for a path
    return image
