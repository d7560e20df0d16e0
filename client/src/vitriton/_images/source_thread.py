"""Takes images from an iterable that may block, in a thread of its own, so that results do not wait for it."""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

# These cannot change after they were given. All else (arrays, PIL images, file objects) may be used again by the caller
# for the next image, and is taken by the flow before that is asked for.
_LASTING = (bytes, str, os.PathLike)


class SourceThread:
    """Runs through an iterable once, not further ahead than is asked for.

    The caller's context variables are there too.

    Args:
        images: the iterable.
        wake: called from the thread when `take` has something new to say.
        ahead: images that are taken before they are asked for.

    Attributes:
        error: what the iterable has raised.
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
        """Passes the next image to `give` if there is one; returns whether there was.

        Raises:
            StopIteration: there are no more, or the iterable has raised `error`.
        """
        if self._given:
            give(self._given[0])  # while it is still there, so that the thread does not go on before
            with self._changed:
                self._given.popleft()
                self._changed.notify()
            return True
        if self._ended:
            raise StopIteration
        return False

    def close(self) -> None:
        """Ends the thread, as soon as the iterable lets go of it."""
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
        # Whatever it is belongs to the caller.
        except BaseException as exc:
            self.error = exc
        finally:
            self._ended = True
            self._wake()

    def _put(self, image: Any) -> bool:
        """Returns whether another image may be asked for."""
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
