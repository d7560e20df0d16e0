"""From what the user gave to what goes over the wire: read, and with preprocess="client" decoded, on threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vitriton._deadline import Deadline
from vitriton._errors import ImageCode, without_frames
from vitriton._images.failure import SourceError, Unreadable
from vitriton._images.fetch import UrlFetcher
from vitriton._images.sources import read_image
from vitriton._options import Options

Encode = Callable[[bytes], "bytes | Unreadable"]


class Reader:
    """Reads images; its threads are shared by all calls of a client.

    Args:
        options: the client's bounds.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._fetcher = UrlFetcher(options)
        self._threads = ThreadPoolExecutor(options.read_threads, thread_name_prefix="vitriton-read")

    def read(self, image: Any, encode: Encode | None, deadline: Deadline) -> bytes | Unreadable:
        """What goes over the wire for one image.

        Args:
            image: as the user gave it.
            encode: makes pixels of an encoded image, or says why not; None sends it as it is.
            deadline: for URLs.
        """
        try:
            data = read_image(
                image,
                max_bytes=self._options.max_image_bytes,
                fetch=lambda url: self._fetcher.fetch(url, deadline),
            )
        except SourceError as exc:
            cause = exc.__cause__ or exc
            return Unreadable(str(exc), exc.code, without_frames(cause))
        # The caller's own objects can fail in any way; and what is raised on a thread, nobody would hear of.
        except Exception as exc:
            return _failed("read", "not_readable", exc)
        return data if encode is None else encoded(data, encode)

    def submit(self, work: Callable[[], object]) -> None:
        """Runs `work`, which must not raise, on one of the threads.

        Raises:
            RuntimeError: the reader is closed.
        """
        self._threads.submit(work)

    def close(self) -> None:
        """Ends what runs. May be called again."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._fetcher.close()
        self._threads.shutdown(wait=True)


def encoded(data: bytes, encode: Encode) -> bytes | Unreadable:
    """The pixels of an encoded image."""
    try:
        return encode(data)
    except Exception as exc:  # as in `Reader.read`
        return _failed("decoded", "other", exc)


def _failed(what: str, code: ImageCode, error: Exception) -> Unreadable:
    reason = f"it cannot be {what}: {type(error).__name__}: {' '.join(str(error).split())}"
    return Unreadable(reason, code, without_frames(error))


def is_slow(image: Any) -> bool:
    """Whether it takes a disk or a network to read it: it may be read later, as it does not change meanwhile.

    All else (arrays, PIL images, file objects, bytearrays) belongs to the caller, who may use it again at once.
    """
    return isinstance(image, (str, os.PathLike))
