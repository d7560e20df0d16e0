"""The memory that an image needs, estimated from its header, and the memory that images share."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from .limits import SCALE_DOWN, check_size
from .refusals import ImageError
from .spec import PreprocessSpec
from .steps import ON_ARRAYS, Patches, Resize, Thumbnail

# The peak memory of decoding, in bytes a pixel, up to an upright RGB image (4 bytes a pixel): a rotated or converted
# copy, the coefficients of a progressive JPEG (8, in CMYK), the canvases of an animated WebP, the planes
# of AVIF and JPEG 2000. Measured with Pillow 13, and rounded up: 12.0, 16.2, 13.7 (8 bits a channel) and 24.6.
_DECODE_BYTES = {"WEBP": 20, "AVIF": 32, "JPEG2000": 32}
_OTHER_DECODE_BYTES = 12
_SIDE_BYTES = 64  # per pixel of width and height: row pointers, resizing coefficients
_KEYED_BYTES = 20  # per pixel, to lay a transparent color onto white
_FLOAT_BYTES = 32  # per pixel, if the whole image becomes floats


class Memory:
    """Memory that concurrently decoded images share: an image that needs more than is left waits.

    Images are served in order of arrival, so that small ones cannot overtake a large one forever.

    Args:
        total: the number of bytes to share.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    def take(self, needed: int | None) -> int:
        """Waits for `needed` bytes, or for all if it is None or more than the total.

        Returns:
            The bytes that were taken, to be given back later.
        """
        taken = self._total if needed is None else min(needed, self._total)
        with self._lock:
            if not self._waiting and taken <= self._left:
                self._left -= taken
                return taken
            ready = threading.Event()
            self._waiting.append((taken, ready))
        ready.wait()
        return taken

    def give_back(self, taken: int) -> None:
        """Returns bytes, and wakes the images that now have enough."""
        with self._lock:
            self._left += taken
            while self._waiting and self._waiting[0][0] <= self._left:
                next_taken, ready = self._waiting.popleft()
                self._left -= next_taken
                ready.set()


class Header(NamedTuple):
    """The properties of an image that determine its memory.

    Attributes:
        format: the format, by Pillow's name.
        width: the width in pixels.
        height: the height in pixels.
        bytes: the memory needed apart from the pixels, in bytes.
        keyed: whether one color is transparent.
    """

    format: str
    width: int
    height: int
    bytes: int
    keyed: bool = False


def reserve(memory: Memory | None, header: Header, spec: PreprocessSpec) -> int:
    """Waits for the memory that an image may need; returns the bytes to give back."""
    limits = spec.limits
    check_size(header.width, header.height, limits)
    needed = _needed_bytes(header, spec)
    if needed > limits.max_decode_bytes:
        raise ImageError(
            f"{header.width} x {header.height} pixels of {header.format} may need {needed} bytes of memory, over "
            f"{limits.named('max_decode_bytes')}; {SCALE_DOWN}",
            "too_large",
        )
    return 0 if memory is None else memory.take(needed)


def _needed_bytes(header: Header, spec: PreprocessSpec) -> int:
    """The peak memory of an image, from the encoded file to the pixels."""
    width, height = header.width, header.height
    each = _DECODE_BYTES.get(header.format, _OTHER_DECODE_BYTES)
    if header.keyed:
        each = max(each, _KEYED_BYTES)
    resized = 0
    for step in spec.steps:
        if isinstance(step, (Resize, Thumbnail, Patches)):
            # Exif may rotate it, which is not known yet
            resized = max(_resize_bytes(step, width, height, spec), _resize_bytes(step, height, width, spec))
            break
        if isinstance(step, ON_ARRAYS):
            each = max(each, _FLOAT_BYTES)
    return width * height * each + _SIDE_BYTES * (width + height) + resized + 2 * header.bytes


def _resize_bytes(step: Resize | Thumbnail | Patches, width: int, height: int, spec: PreprocessSpec) -> int:
    """The memory that resizing adds: the result, and the image between its two passes."""
    new_height, new_width = step.size(height, width)
    if new_height * new_width > spec.limits.max_pixels:
        return 0  # refused later
    # Pillow resizes the rows first, but the columns first if an image is over 100 times as high as wide
    between = new_width * height if height <= 100 * width or new_height >= height else width * new_height
    each = _FLOAT_BYTES if any(isinstance(other, ON_ARRAYS) for other in spec.steps) else 4
    return 4 * between + each * new_width * new_height
