"""One image's file: its content, of one moment, and the columns that are read from it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from io import BufferedReader
from typing import Any, BinaryIO, NamedTuple

from PIL import Image
from vitriton import VitritonError
from vitriton.preprocessing import DEFAULT_FORMATS

from vitriton_search.index.scan import Found, modified_us

CHANGING = "it changes while it is read"

_ATTEMPTS = 3
# A change within one tick of the file system's clock leaves the time as it was; ticks of 1 to 10 ms are usual.
_SETTLED_S = 0.05
_EXIF, _ORIENTATION = 0x8769, 0x0112
_TURNED = (5, 6, 7, 8)  # the orientations that exchange width and height
# when the picture was taken, digitized, or else changed: whether the tag is in the inner directory, and its number
_DATES = ((True, 0x9003), (True, 0x9004), (False, 0x0132))
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class UnusableFile(VitritonError):  # noqa: N818 - as the other errors
    """A file cannot be used; the text says why."""


class FileContent(NamedTuple):
    """The content of a file.

    Attributes:
        data: the bytes.
        sha256: their hash.
        modified_us: the time of the file's last change, in microseconds since 1970.
    """

    data: bytes
    sha256: str
    modified_us: int


class Photo(NamedTuple):
    """An image that was read, or could not be.

    Attributes:
        columns: the columns of its row; with `error` if it cannot be used.
        data: the bytes of its file; None for a URL, and if it cannot be used.
    """

    columns: dict[str, Any]
    data: bytes | None


def read_photo(image: Found, max_bytes: int) -> Photo:
    """Reads an image; a URL is left to the client.

    Args:
        image: the image.
        max_bytes: the size of the largest file that is read.
    """
    if image.path is None:
        return Photo({"id": image.id, "source": image.id}, None)
    try:
        content = read_file(image.path, max_bytes)
    except UnusableFile as exc:
        return Photo({**place_of(image, image.size, image.modified_us), "error": str(exc)}, None)
    columns = place_of(image, len(content.data), content.modified_us)
    return Photo({**columns, "sha256": content.sha256, **_about(content.data)}, content.data)


def place_of(image: Found, size: int | None, modified_us: int | None) -> dict[str, Any]:
    """The columns that say which file a row is of, and by what a change of it is seen."""
    modified = None if modified_us is None else _EPOCH + timedelta(microseconds=modified_us)
    return {"id": image.id, "source": image.id, "bytes": size, "modified": modified}


@contextmanager
def opened(path: str) -> Iterator[BufferedReader]:
    """Opens a file for a `with` block, also for one that reads it in its own way.

    Raises:
        UnusableFile: the file cannot be read, or is no regular file.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnusableFile("it is no regular file")
            yield file
    except (OSError, ValueError) as exc:  # a null character is a ValueError
        raise UnusableFile(f"it cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


class Settled:
    """A file whose content is that of one moment, as long as `is_unchanged`.

    Args:
        file: the file.

    Attributes:
        size: the size, in bytes.
        modified_us: the time of the last change, in microseconds since 1970.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        if not _is_settled(os.fstat(file.fileno())):
            time.sleep(_SETTLED_S)
        status = os.fstat(file.fileno())
        self._moment = _moment(status)
        self.size = status.st_size
        self.modified_us = modified_us(status.st_mtime_ns)

    def is_unchanged(self) -> bool:
        """Whether nobody has written to the file."""
        status = os.fstat(self._file.fileno())
        return _is_settled(status) and _moment(status) == self._moment


def read_file(path: str, max_bytes: int) -> FileContent:
    """Reads a file, and again if it changes in the meantime, so that size, time and hash are those of the content.

    Args:
        path: the path of the file.
        max_bytes: the size of the largest file that is read.

    Raises:
        UnusableFile: the file cannot be read, is larger, is no regular file, or does not stop changing.
    """
    for _ in range(_ATTEMPTS):
        with opened(path) as file:
            settled = Settled(file)
            if settled.size > max_bytes:
                raise UnusableFile(f"it has {settled.size} bytes, more than {max_bytes}")
            data = file.read(max_bytes + 1)
            if settled.is_unchanged() and len(data) == settled.size:
                return FileContent(data, hashlib.sha256(data).hexdigest(), settled.modified_us)
    raise UnusableFile(CHANGING)


def _about(data: bytes) -> dict[str, Any]:
    """Width and height, in pixels and as the image is shown, and the date; empty for what is no image."""
    try:
        with Image.open(io.BytesIO(data), formats=DEFAULT_FORMATS) as image:
            width, height = image.size
            exif = image.getexif()
            inner = exif.get_ifd(_EXIF)
    except Exception:  # Pillow raises whatever it meets; the server says what is wrong with a bad file
        return {}
    if exif.get(_ORIENTATION) in _TURNED:
        width, height = height, width
    dates = (_date(inner.get(tag) if is_inner else exif.get(tag)) for is_inner, tag in _DATES)
    return {"width": width, "height": height, "taken": next(filter(None, dates), None)}


def _date(text: object) -> datetime | None:
    """A date in EXIF's form; None if it is none, such as that of a clock that was not set."""
    try:
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


def _is_settled(status: os.stat_result) -> bool:
    return not 0 <= time.time() - status.st_mtime < _SETTLED_S


def _moment(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe is not waited for
