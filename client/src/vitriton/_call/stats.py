"""What a client has done so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counts since the client was made.

    Attributes:
        images: that were embedded.
        invalid_images: that could not be used.
        requests: that were sent, each attempt counted.
        retries: attempts that failed and were tried again.
        bytes_sent: of images, each attempt counted.
    """

    images: int = 0
    invalid_images: int = 0
    requests: int = 0
    retries: int = 0
    bytes_sent: int = 0


class Counters:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((field.name for field in fields(Stats)), 0)

    def stats(self) -> Stats:
        """The counts at this moment."""
        with self._lock:
            return Stats(**self._counts)

    def sent(self, byte_size: int) -> None:
        """Counts a request."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["bytes_sent"] += byte_size

    def answered(self, images: int) -> None:
        """Counts the images of an answer."""
        with self._lock:
            self._counts["images"] += images

    def rejected(self) -> None:
        """Counts an image that cannot be used."""
        with self._lock:
            self._counts["invalid_images"] += 1

    def retried(self) -> None:
        """Counts a failed attempt that is followed by another."""
        with self._lock:
            self._counts["retries"] += 1
