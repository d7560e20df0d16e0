"""The pictures of a store's rows, and thumbnails of pictures and of frames."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from vitriton.preprocessing import (
    CenterCrop,
    ConvertRGB,
    ImageError,
    Limits,
    Memory,
    PreprocessSpec,
    Resize,
    ScaledDecoding,
    decode,
    preprocess,
)

from vitriton_search.page.files import changed, open_file, unreadable
from vitriton_search.page.refusals import PageRefused

MIB = 1024 * 1024
THUMBNAIL_PIXELS = 320  # both sides: twice what the page shows, for screens with small pixels

LIMITS = Limits(max_bytes=128 * MIB, max_decode_bytes=1024 * MIB)
_THUMBNAIL = PreprocessSpec(
    (
        ScaledDecoding(),
        ConvertRGB(),
        Resize("bicubic", shortest_edge=THUMBNAIL_PIXELS),
        CenterCrop(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS),
    ),
    THUMBNAIL_PIXELS,
    THUMBNAIL_PIXELS,
    LIMITS,
)
_MEMORY = Memory(LIMITS.max_decode_bytes)  # all images that are decoded at a time
_QUALITY = 82

# What browsers show, by Pillow's name; other formats are sent to them as JPEG.
_SHOWN = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
}


def read_photo(row: Mapping[str, Any]) -> bytes:
    """Reads the picture of a row, which must be the one that was indexed.

    Raises:
        PageRefused: there is no such file, it may not be shown, or it has changed.
    """
    if row["time_s"] is not None:
        raise PageRefused("it is a frame of a video, and no file of its own", 415)
    with open_file(row) as file:
        try:
            data = file.read(LIMITS.max_bytes + 1)
        except OSError as exc:
            raise unreadable(exc) from exc
    if len(data) > LIMITS.max_bytes:
        raise PageRefused(f"the file has more than {LIMITS.max_bytes // MIB} MiB", 413)
    if row["sha256"] and hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise changed()
    return data


def shown(data: bytes) -> tuple[bytes, str]:
    """A picture as browsers show it, and its media type.

    Raises:
        PageRefused: it is no picture, or beyond the limits.
    """
    # A decoder can fail in any way; what is wrong with the picture itself is said below
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=list(_SHOWN)) as image:
        return data, _SHOWN[image.format or ""]
    try:
        return jpeg(decode(data, LIMITS)), "image/jpeg"
    except ImageError as exc:
        raise PageRefused(f"it cannot be shown: {exc}", 415) from exc


def thumbnail(data: bytes) -> bytes:
    """The middle of a picture, as a small square JPEG.

    Raises:
        PageRefused: it is no picture, or beyond the limits.
    """
    try:
        return jpeg(Image.fromarray(preprocess(data, _THUMBNAIL, _MEMORY)))
    except ImageError as exc:
        raise PageRefused(f"it cannot be shown: {exc}", 415) from exc


def frame_thumbnail(frame: NDArray[np.uint8]) -> bytes:
    """The middle of a frame, (H, W, 3) uint8, as a small square JPEG."""
    return jpeg(ImageOps.fit(Image.fromarray(frame), (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)))


def thumbnail_key(row: Mapping[str, Any]) -> str:
    """The name of a row's thumbnail: another one for another file, the same for copies."""
    content = row["sha256"] or f"{row['source']}\0{row['bytes']}\0{row['modified']}"
    named = f"{content}\0{row['time_s']}\0{THUMBNAIL_PIXELS}"
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()


def jpeg(image: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
