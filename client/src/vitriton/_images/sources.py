"""The kinds of images that a user may pass, and their encoded bytes.

Encoded images (paths, URLs, bytes) are not decoded here. PIL images and arrays are encoded without loss. The objects of
other libraries (tensors, uploads, items of data sets) are known by their methods: no such library is imported here.
"""

from __future__ import annotations

import base64
import binascii
import errno
import inspect
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sized
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol, Union
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
from numpy.typing import NDArray

from vitriton._images.failure import SourceError

if TYPE_CHECKING:
    from PIL.Image import Image

_UINT8 = re.compile(r"(\w+\.)*uint8|<dtype: 'uint8'>")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LONGEST_NAME = 120
_CHUNK = 1024 * 1024
_ITEM = {"bytes", "path"}  # the keys of an undecoded image in Hugging Face's data sets; one value may be None
_NAMED_KEYS = 3
_OF_A_DICT = (
    "give the value that is the image, and for a data set one column, such as dataset['image'] (a dict with no keys "
    "other than 'bytes' and 'path' is an image, too)"
)
_OF_A_STR = "a str is a path, an http(s) URL or a data: URI; put 'data:;base64,' before base64"


class Tensor(Protocol):
    """An object that numpy can convert to an array."""

    @property
    def ndim(self) -> int:
        """The number of axes."""

    def __array__(self) -> Any:
        """Converts to a numpy array."""


class Upload(Protocol):
    """An upload of FastAPI, Starlette or aiohttp."""

    @property
    def file(self) -> BinaryIO:
        """The content of the upload."""


ImageLike = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    BinaryIO,
    Upload,
    "Image",
    NDArray[np.uint8],
    Tensor,
    Mapping[str, Any],
]


def as_images(images: Any) -> tuple[Iterable[Any], int | None]:
    """The images to embed and their number (None for an iterator). A single image becomes a list of one.

    Raises:
        TypeError: the object is neither an image nor an iterable.
    """
    if isinstance(images, (list, tuple)):  # first: it is the usual case, and the next check takes time
        return images, len(images)
    if is_one(images):
        return [images], 1
    if isinstance(images, Mapping):  # its keys could be taken for paths
        raise TypeError(f"images is {_keys(images)}; {_OF_A_DICT}")
    if isinstance(images, Iterable):
        return images, len(images) if isinstance(images, Sized) else None
    raise TypeError(
        f"images has the type {type(images).__name__}; give a list (or any iterable) of paths, URLs, bytes, file "
        "objects, PIL images or uint8 arrays, or one of these"
    )


def is_one(images: Any) -> bool:
    """Whether the object is a single image, not an iterable of images."""
    single = (str, os.PathLike, bytes, bytearray, memoryview)
    if isinstance(images, single) or _is_pil(images) or _is_item(images) or _is_upload(images):
        return True
    if _is_array(images):
        is_file = images.ndim == 1 and _is_uint8(images)  # else a list of paths
        return images.ndim in (0, 2, 3) or is_file  # 4: a list of images
    return _is_file(images)


def source_name(image: Any) -> str:
    """A name of `image` for messages: short, on one line, and without a URL's secrets."""
    try:
        return _source_name(image)
    except Exception:  # the caller's own object; reading it reports the problem
        return type(image).__name__


def read_image(image: Any, *, max_bytes: int, fetch: Callable[[str], bytes], refuse_paths: bool = False) -> bytes:
    """The encoded bytes of `image`.

    Args:
        image: the path, URL, data URI, bytes, binary file object (read from its position; or an object with one as
            `file`), PIL image, uint8 array or tensor (see `encode_array`), or dict with `bytes` or a `path`.
        max_bytes: the most bytes of the result.
        fetch: the function that fetches an http(s) URL; raises SourceError.
        refuse_paths: whether a path is an error (`Options.refuse_paths`).

    Raises:
        SourceError: the image cannot be read; the text says why.
    """
    if isinstance(image, str) and image[:5].lower() == "data:":
        data = _decode_data_uri(image, max_bytes)
    elif isinstance(image, str) and (scheme := _URL.match(image)):
        if scheme.group().lower() not in ("http://", "https://"):
            raise SourceError(
                f"{scheme.group()} is not supported; use http:// or https://, or read the image and pass its bytes",
                "bad_url",
            )
        data = fetch(image)
    elif isinstance(image, (str, os.PathLike)):
        if refuse_paths:
            raise SourceError(
                "it is neither an http(s) URL nor a data: URI, and paths are refused (Options.refuse_paths)",
                "path_refused",
            )
        data = _read_file(image, max_bytes)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        _check_size(memoryview(image).nbytes, max_bytes)
        data = bytes(image)
    elif _is_pil(image) or isinstance(image, np.ndarray):
        from vitriton._images.lossless import encode_array, encode_pil

        _check_pixels(image, max_bytes)  # before the copy
        data = encode_array(image) if isinstance(image, np.ndarray) else encode_pil(image)
    elif _is_file(image):
        data = _read_stream(_without_await(image), max_bytes)
    elif _is_upload(image):
        data = _read_stream(image.file, max_bytes)
    elif _is_array(image):
        data = read_image(_to_numpy(image, max_bytes), max_bytes=max_bytes, fetch=fetch)
    elif isinstance(image, Mapping):
        data = read_image(_of_item(image), max_bytes=max_bytes, fetch=fetch, refuse_paths=refuse_paths)
    elif isinstance(image, (list, tuple)):
        raise SourceError(
            f"a {type(image).__name__} of {len(image)} in place of one image; give the images one by one, and not in "
            "batches",
            "kind",
        )
    else:
        raise SourceError(
            f"an object of type {type(image).__name__} is not an image; give a path, a URL, bytes, a binary file "
            "object, a PIL image or a uint8 array (H, W, 3)",
            "kind",
        )
    _check_size(len(data), max_bytes)
    return data


def _source_name(image: Any) -> str:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return type(image).__name__
    if isinstance(image, str) and image[:5].lower() == "data:":
        return "data URI"
    if isinstance(image, str) and _URL.match(image):
        return _printable(_without_secrets(image))
    if isinstance(image, (str, os.PathLike)):
        return _printable(os.fsdecode(image))
    if _is_item(image):
        path = image.get("path")
        return _source_name(path) if isinstance(path, (str, os.PathLike)) else "bytes"
    if _is_array(image):
        return f"{_array_name(image)} {tuple(image.shape)} {_dtype(image)}"
    name = getattr(image, "filename", None) or getattr(image, "name", None)
    is_file = _is_file(image) or _is_upload(image)
    kind = "PIL image" if _is_pil(image) else "file object" if is_file else type(image).__name__
    return _printable(f"{kind} {name}") if name and isinstance(name, str) else kind


def _is_pil(image: Any) -> bool:
    # A PIL image exists only if PIL is imported; others need not import it.
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def _is_file(image: Any) -> bool:
    return callable(getattr(image, "read", None))


def _is_upload(image: Any) -> bool:
    """Whether the object is no file itself and has one, as aiohttp's uploads."""
    return not _is_file(image) and _is_file(getattr(image, "file", None))


def _is_array(image: Any) -> bool:
    """Whether numpy can convert the object: its own array, or a tensor of torch, jax, TensorFlow, MLX, ..."""
    return isinstance(getattr(image, "ndim", None), int) and (
        hasattr(image, "__array__") or hasattr(image, "__dlpack__")
    )


def _is_uint8(array: Any) -> bool:
    """Whether the type is uint8, which libraries write as uint8, torch.uint8, mlx.core.uint8 or <dtype: 'uint8'>."""
    return _UINT8.fullmatch(str(_dtype(array))) is not None


def _dtype(array: Any) -> Any:
    return getattr(array, "dtype", None)  # a pandas table has several


def _is_item(image: Any) -> bool:
    return isinstance(image, Mapping) and bool(image) and image.keys() <= _ITEM


def _array_name(array: Any) -> str:
    return "array" if isinstance(array, np.ndarray) else type(array).__name__


def _to_numpy(array: Any, max_bytes: int) -> np.ndarray[Any, Any]:
    """The tensor as an array, without a copy where its memory is in this process."""
    name, shape = _array_name(array), tuple(array.shape)
    if not _is_uint8(array):  # some other types cannot even become an array
        raise SourceError(
            f"the {name} has shape {shape} and dtype {_dtype(array)}; it must be uint8, RGB, and not scaled or "
            "normalized",
            "shape",
        )
    _check_pixels(array, max_bytes)
    try:
        return np.asarray(array) if hasattr(array, "__array__") else np.from_dlpack(array)
    # The library's code can fail in any way.
    except Exception as exc:
        text = " ".join(str(exc).split())
        raise SourceError(
            f"the {name} cannot be read ({text}); for a tensor on another device, give tensor.cpu()", "not_readable"
        ) from exc


def _of_item(item: Mapping[Any, Any]) -> Any:
    """The image in an undecoded item of a data set. A path beside bytes is often from another machine."""
    if not _is_item(item):
        raise SourceError(f"{_keys(item)} is not an image; {_OF_A_DICT}", "kind")
    data, path = item.get("bytes"), item.get("path")
    if data is None and path is None:
        raise SourceError("the dict has neither bytes nor a path", "kind")
    if data is not None and not isinstance(data, (bytes, bytearray, memoryview)):
        raise SourceError(f"'bytes' in the dict has the type {type(data).__name__}; it must be bytes", "kind")
    if data is None and not isinstance(path, (str, os.PathLike)):
        raise SourceError(f"'path' in the dict has the type {type(path).__name__}; it must be a path", "kind")
    return path if data is None else data


def _keys(mapping: Mapping[Any, Any]) -> str:
    """A description of a dict's keys, for messages."""
    kind = type(mapping).__name__
    names = [_printable(str(key)) for key in islice(mapping, _NAMED_KEYS)]
    more = ", ..." if len(mapping) > len(names) else ""
    return f"a {kind} with the keys {', '.join(names)}{more}" if names else f"an empty {kind}"


def _without_await(file: Any) -> Any:
    """The ordinary file inside an upload of FastAPI or Starlette, whose own read must be awaited."""
    inner = getattr(file, "file", None)
    return inner if inspect.iscoroutinefunction(file.read) and _is_file(inner) else file


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
        raise SourceError(f"{size} bytes are over the limit of {max_bytes} (Options.max_image_bytes)", "too_large")


def _check_pixels(image: Any, max_bytes: int) -> None:
    """Refuses a PIL image or an array that is too large: it is sent as pixels, whatever the size of its file."""
    if _is_pil(image):
        size, what = 3 * image.width * image.height, f"{image.width} x {image.height} pixels"
    else:
        size, what = math.prod(image.shape), f"the pixels of shape {tuple(image.shape)}"
        if image.ndim == 1:  # an encoded file
            _check_size(size, max_bytes)
    if size > max_bytes:
        raise SourceError(
            f"{what} would be sent as {size} bytes, over the limit of {max_bytes} (Options.max_image_bytes); give the "
            "path or the bytes of its file, or scale it down",
            "too_large",
        )


def _decode_data_uri(uri: str, max_bytes: int) -> bytes:
    _check_size(len(uri) * 3 // 4, 2 * max_bytes)  # before the copy; the exact check follows
    header, comma, payload = uri.partition(",")
    if not comma:
        raise SourceError("the data URI has no comma before its data", "bad_url")
    data = unquote_to_bytes(payload)
    if not header.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as exc:
        raise SourceError(f"the data URI has no valid base64: {exc}", "bad_url") from exc


def _read_file(path: str | os.PathLike[Any], max_bytes: int) -> bytes:
    if not os.fspath(path):
        raise SourceError("the path is empty", "not_found")
    try:
        status = Path(os.fsdecode(path)).stat()
        if stat.S_ISDIR(status.st_mode):
            raise SourceError("it is a folder; pass the files in it", "kind")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe could block for ever
            raise SourceError("it is not a regular file; open it and pass the file object", "kind")
        _check_size(status.st_size, max_bytes)
        with open(path, "rb") as file:  # noqa: PTH123 - also takes a path of bytes
            data = file.read(status.st_size + 1)
            # read more only if the file has grown meanwhile
            return data if len(data) <= status.st_size else data + file.read(max_bytes)
    except FileNotFoundError as exc:
        is_named = not isinstance(path, str) or "/" in path or "." in path
        raise SourceError("no such file" if is_named else f"no such file; {_OF_A_STR}", "not_found") from exc
    except OSError as exc:
        if isinstance(path, str) and exc.errno == errno.ENAMETOOLONG:
            raise SourceError(f"it is too long for a path; {_OF_A_STR}", "not_found") from exc
        raise SourceError(f"the file cannot be read: {exc.strerror or exc}", "not_readable") from exc
    except ValueError as exc:
        raise SourceError(f"it is not the name of a file: {exc}", "not_found") from exc


def _read_stream(file: IO[bytes], max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= max_bytes:  # an unbuffered file may return less than requested
        try:
            part = file.read(min(_CHUNK, max_bytes + 1 - size))
        # A file object is the caller's code and can fail in any way.
        except Exception as exc:
            raise SourceError(f"the file object cannot be read: {type(exc).__name__}: {exc}", "not_readable") from exc
        if inspect.isawaitable(part):
            if inspect.iscoroutine(part):
                part.close()
            raise SourceError("the file object's read() is asynchronous; await it and give the bytes", "kind")
        if isinstance(part, str):
            raise SourceError("the file object returns text; open it in binary mode ('rb')", "kind")
        if part is None or (isinstance(part, (bytes, bytearray)) and not part):
            break
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise SourceError(f"the file object returns {type(part).__name__} instead of bytes", "kind")
        parts.append(bytes(part))
        size += len(parts[-1])
    if size > max_bytes:  # the rest is not read, so its size is unknown
        raise SourceError(f"it has more than the limit of {max_bytes} bytes (Options.max_image_bytes)", "too_large")
    if not parts:
        raise SourceError("the file object has no bytes left to read; is it empty, or did you forget seek(0)?", "empty")
    return b"".join(parts)
