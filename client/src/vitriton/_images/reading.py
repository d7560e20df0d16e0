"""Reads the user's images on threads, and with preprocess="client" decodes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vitriton._deadline import Deadline
from vitriton._errors import InputCode, Unreadable, without_frames
from vitriton._images.failure import SourceError
from vitriton._images.fetch import UrlFetcher
from vitriton._images.sources import read_image
from vitriton._options import Options

Encode = Callable[[bytes], "bytes | Unreadable"]


class Reader:
    """Reads images on threads that all calls of a client share.

    Args:
        options: the client's options, with the limits.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._fetcher = UrlFetcher(options)
        self._threads = ThreadPoolExecutor(options.read_threads, thread_name_prefix="vitriton-read")

    def read(self, image: Any, encode: Encode | None, deadline: Deadline) -> bytes | Unreadable:
        """Reads one image; returns the bytes to send, or why there are none.

        Args:
            image: the user's image.
            encode: the function that makes pixels of an encoded image; None: the encoded image is sent.
            deadline: the deadline of the call, for URLs.
        """
        if isinstance(image, Unreadable):  # from where images are made, such as a video
            return image
        try:
            data = read_image(
                image,
                max_bytes=self._options.max_image_bytes,
                fetch=lambda url: self._fetcher.fetch(url, deadline),
                refuse_paths=self._options.refuse_paths,
            )
        except SourceError as exc:
            cause = exc.__cause__ or exc
            return Unreadable(str(exc), exc.code, without_frames(cause))
        # The caller's own objects can fail in any way, and nobody would see an exception on a thread.
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
        """Cancels running reads. May be called again."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._fetcher.close()
        self._threads.shutdown(wait=True)


def encoded(data: bytes, encode: Encode) -> bytes | Unreadable:
    """Runs `encode` on an encoded image; any exception becomes an `Unreadable`."""
    try:
        return encode(data)
    except Exception as exc:  # as in `Reader.read`
        return _failed("decoded", "other", exc)


def is_slow(image: Any) -> bool:
    """Whether reading the image needs a disk or a network. It may then be read later, since it does not change.

    Other images (arrays, PIL images, file objects, bytearrays) belong to the caller, who may reuse them at once.
    """
    return isinstance(image, (str, os.PathLike))


def _failed(what: str, code: InputCode, error: Exception) -> Unreadable:
    reason = f"it cannot be {what}: {type(error).__name__}: {' '.join(str(error).split())}"
    return Unreadable(reason, code, without_frames(error))
