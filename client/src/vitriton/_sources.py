"""What the user may give as an image, and its encoded bytes.

Paths, URLs and bytes travel as they are: nothing is decoded here. PIL images and arrays travel without loss.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LONGEST_NAME = 120
_CHUNK = 1024 * 1024


class SourceError(Exception):
    """An image that cannot be used; the text says why, in one line, without naming the image."""


def as_images(images: Any) -> tuple[Iterable[Any], int | None]:
    """The images to embed, and how many they are (None: an iterator does not tell). A single image is a list of one.

    Raises:
        TypeError: it is neither an image nor an iterable.
    """
    if isinstance(images, (list, tuple)):  # first, as it is the usual case and the next test takes time
        return images, len(images)
    if _is_one(images):
        return [images], 1
    if isinstance(images, Iterable):
        return images, len(images) if isinstance(images, Sized) else None
    raise TypeError(
        f"images is a {type(images).__name__}; give a list (or any iterable) of paths, URLs, bytes, file objects, "
        "PIL images or uint8 arrays, or one of these"
    )


def source_name(image: Any) -> str:
    """What `image` is, for a message: short, on one line, and without the secrets that a URL's query may hold."""
    try:
        return _source_name(image)
    except Exception:  # the caller's own object; what is wrong with it is said when it is read
        return type(image).__name__


def _source_name(image: Any) -> str:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return type(image).__name__
    if isinstance(image, str) and image[:5].lower() == "data:":
        return "data URI"
    if isinstance(image, str) and _URL.match(image):
        return _printable(_without_secrets(image))
    if isinstance(image, (str, os.PathLike)):
        return _printable(os.fsdecode(image))
    if isinstance(image, np.ndarray):
        return f"array {image.shape} {image.dtype}"
    name = getattr(image, "filename" if _is_pil(image) else "name", None)
    kind = "PIL image" if _is_pil(image) else "file object" if _is_file(image) else type(image).__name__
    return _printable(f"{kind} {name}") if name and isinstance(name, str) else kind


def read_image(image: Any, *, max_bytes: int, fetch: Callable[[str], bytes]) -> bytes:
    """The encoded bytes of `image`.

    Args:
        image: path, URL, data URI, bytes, binary file object (read from where it stands), PIL image, uint8
            array (H, W, 3).
        max_bytes: of the result.
        fetch: gets an http(s) URL; raises SourceError.

    Raises:
        SourceError: it cannot be read; the text says why.
    """
    if isinstance(image, str) and image[:5].lower() == "data:":
        data = _decode_data_uri(image, max_bytes)
    elif isinstance(image, str) and (scheme := _URL.match(image)):
        if scheme.group().lower() not in ("http://", "https://"):
            raise SourceError(f"{scheme.group()} is not supported; http:// and https:// are, or read it and pass bytes")
        data = fetch(image)
    elif isinstance(image, (str, os.PathLike)):
        data = _read_file(image, max_bytes)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        _check_size(memoryview(image).nbytes, max_bytes)
        data = bytes(image)
    elif _is_pil(image) or isinstance(image, np.ndarray):
        from vitriton._lossless import encode_array, encode_pil

        # before it is copied; a picture of a file may be decoded, and so larger than that
        _check_size(image.nbytes if isinstance(image, np.ndarray) else 3 * image.width * image.height, max_bytes)
        data = encode_array(image) if isinstance(image, np.ndarray) else encode_pil(image)
    elif _is_file(image):
        data = _read_stream(image, max_bytes)
    else:
        raise SourceError(
            f"a {type(image).__name__} is not an image; give a path, a URL, bytes, a binary file object, a PIL image "
            "or a uint8 array (H, W, 3)"
        )
    _check_size(len(data), max_bytes)
    return data


def _is_one(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim in (2, 3)  # 1: a list of paths; 4: a list of images
    single = (str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(images, single) or _is_pil(images) or _is_file(images)


def _is_pil(image: Any) -> bool:
    # Whoever has a PIL image has imported PIL; others need not pay for it.
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def _is_file(image: Any) -> bool:
    return callable(getattr(image, "read", None))


def _printable(name: str) -> str:
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}...{name[-_LONGEST_NAME // 2 :]}"


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise SourceError(f"{size} bytes are over the limit of {max_bytes} (max_image_bytes)")


def _decode_data_uri(uri: str, max_bytes: int) -> bytes:
    _check_size(len(uri) * 3 // 4, 2 * max_bytes)  # before it is copied; the exact check comes after
    header, comma, payload = uri.partition(",")
    if not comma:
        raise SourceError("the data URI has no comma before its data")
    data = unquote_to_bytes(payload)
    if not header.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as exc:
        raise SourceError(f"the data URI is not valid base64: {exc}") from exc


def _read_file(path: str | os.PathLike[Any], max_bytes: int) -> bytes:
    if not os.fspath(path):
        raise SourceError("the path is empty")
    try:
        status = Path(os.fsdecode(path)).stat()
        if stat.S_ISDIR(status.st_mode):
            raise SourceError("it is a folder; pass the files in it")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe could wait for ever
            raise SourceError("it is not a regular file; open it and pass the file object")
        _check_size(status.st_size, max_bytes)
        with open(path, "rb") as file:  # noqa: PTH123 - also takes a path of bytes
            data = file.read(status.st_size + 1)
            # more only where it has grown meanwhile
            return data if len(data) <= status.st_size else data + file.read(max_bytes)
    except FileNotFoundError as exc:
        raise SourceError("no such file") from exc
    except OSError as exc:
        raise SourceError(f"the file cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise SourceError(f"it is not the name of a file: {exc}") from exc


def _read_stream(file: IO[bytes], max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= max_bytes:  # an unbuffered file may return less than it was asked for
        try:
            part = file.read(min(_CHUNK, max_bytes + 1 - size))
        # A file object is the caller's code, and can fail in any way.
        except Exception as exc:
            raise SourceError(f"the file object cannot be read: {type(exc).__name__}: {exc}") from exc
        if isinstance(part, str):
            raise SourceError("the file object gives text; open it in binary mode ('rb')")
        if part is None or (isinstance(part, (bytes, bytearray)) and not part):
            break
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise SourceError(f"the file object gives {type(part).__name__}, and not bytes")
        parts.append(bytes(part))
        size += len(parts[-1])
    return b"".join(parts)
