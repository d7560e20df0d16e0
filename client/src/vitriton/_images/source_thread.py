"""Iterates over images in a separate thread, since the iterable may block, so that results need not wait."""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

# Images that cannot change. The caller may reuse all others (arrays, PIL images, file objects) for the next image, so
# the flow takes them before it asks for that.
_LASTING = (bytes, str, os.PathLike)


class SourceThread:
    """Iterates over images once, a limited number ahead, with the caller's context variables.

    Args:
        images: the iterable of images.
        wake: the function that the thread calls when `take` has a new result.
        ahead: the most images to take before they are needed.

    Attributes:
        error: the exception that the iterable raised.
    """

    def __init__(self, images: Iterable[Any], wake: Callable[[], None], ahead: int) -> None:
        self._images = images
        self._wake = wake
        self._ahead = ahead
        self._changed = threading.Condition()
        self._given: deque[Any] = deque()
        self.error: BaseException | None = None
        self._ended = False
        self._closed = False
        self._in_source = True
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="vitriton-source", daemon=True
        )
        self._thread.start()

    def take(self, give: Callable[[Any], None]) -> bool:
        """Passes the next image to `give`, if there is one; returns whether there was.

        Raises:
            StopIteration: there are no more images, or the iterable raised `error`.
        """
        ended = self._ended  # read first: what the thread added before its end must not be missed
        if self._given:
            give(self._given[0])  # before it is removed, so that the thread does not continue too early
            with self._changed:
                self._given.popleft()
                self._changed.notify()
            return True
        if ended:
            raise StopIteration
        return False

    def close(self) -> None:
        """Ends the thread as soon as the iterable returns."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            blocked = self._in_source
        if not blocked:
            self._thread.join()

    def _run(self) -> None:
        try:
            for image in self._images:
                if not self._put(image):
                    return
        # The caller gets any error.
        except BaseException as exc:
            self.error = exc
        finally:
            self._ended = True
            self._wake()

    def _put(self, image: Any) -> bool:
        """Adds an image and waits until there is room; returns whether to take another."""
        limit = self._ahead if isinstance(image, _LASTING) else 1
        with self._changed:
            self._in_source = False
            self._given.append(image)
            first = len(self._given) == 1
        if first:
            self._wake()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._given) < limit)
            self._in_source = True
            return not self._closed
