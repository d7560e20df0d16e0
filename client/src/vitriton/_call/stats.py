"""Counts of a client's work."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

from vitriton._repository.names import Tower


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counts since the client was made.

    Attributes:
        images: the number of images that were embedded.
        invalid_images: the number of images that could not be used.
        texts: the number of texts that were embedded.
        invalid_texts: the number of texts that could not be used.
        requests: the number of requests that were sent, counting each attempt.
        retries: the number of these requests that failed and were tried again.
        bytes_sent: the size of the images and texts that were sent, in bytes, counting each attempt.
    """

    images: int = 0
    invalid_images: int = 0
    texts: int = 0
    invalid_texts: int = 0
    requests: int = 0
    retries: int = 0
    bytes_sent: int = 0


class Counters:
    """The counters behind `Stats`. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((field.name for field in fields(Stats)), 0)

    def stats(self) -> Stats:
        """The current counts."""
        with self._lock:
            return Stats(**self._counts)

    def sent(self, byte_size: int) -> None:
        """Counts a request."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["bytes_sent"] += byte_size

    def answered(self, tower: Tower, inputs: int) -> None:
        """Counts the inputs of an answer."""
        with self._lock:
            self._counts[f"{tower}s"] += inputs

    def rejected(self, tower: Tower) -> None:
        """Counts an invalid input."""
        with self._lock:
            self._counts[f"invalid_{tower}s"] += 1

    def retried(self) -> None:
        """Counts a request that failed and is tried again."""
        with self._lock:
            self._counts["retries"] += 1
