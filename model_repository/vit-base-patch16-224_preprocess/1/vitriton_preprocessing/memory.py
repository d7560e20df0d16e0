"""The memory that an image needs, estimated from its header, and how images share what there is."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from .limits import SCALE_DOWN, check_size
from .refusals import ImageError
from .spec import PreprocessSpec
from .steps import ON_ARRAYS, Patches, Resize, Thumbnail

# The most memory that decoding takes, in bytes a pixel, up to an upright RGB image (of 4 bytes a pixel): a copy that is
# turned or converted, the coefficients of a progressive JPEG (8, in CMYK), the canvases of an animated WebP, the planes
# of AVIF and JPEG 2000. Measured with Pillow 13, and rounded up: 12.0, 16.2, 13.7 (8 bits a channel) and 24.6.
_DECODE_BYTES = {"WEBP": 20, "AVIF": 32, "JPEG2000": 32}
_OTHER_DECODE_BYTES = 12
_SIDE_BYTES = 64  # a pixel of width and height: pointers to the rows, coefficients of resizing
_KEYED_BYTES = 20  # a pixel, to lay a transparent colour onto white
_FLOAT_BYTES = 32  # a pixel, where floats are made of the whole image


class Memory:
    """Memory that is shared by images which are decoded at the same time: who needs more than is left waits.

    In the order of their coming, so that a large image is not overtaken for ever by small ones.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    def take(self, needed: int | None) -> int:
        """Waits until `needed` bytes are left; all of them where it is None, or more than there are.

        Returns:
            What is held from now on, and is to be given back.
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
        """Lets those go on for which there is enough now."""
        with self._lock:
            self._left += taken
            while self._waiting and self._waiting[0][0] <= self._left:
                next_taken, ready = self._waiting.popleft()
                self._left -= next_taken
                ready.set()


class Header(NamedTuple):
    """What memory depends on.

    Attributes:
        format: Pillow's name.
        width: in pixels.
        height: in pixels.
        bytes: that are needed whatever the pixels are.
        keyed: one of its colours is transparent.
    """

    format: str
    width: int
    height: int
    bytes: int
    keyed: bool = False


def reserve(memory: Memory | None, header: Header, spec: PreprocessSpec) -> int:
    """Waits for the memory that an image may need; returns what is to be given back."""
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
    """The most memory that an image needs at one time, from the encoded file to the pixels."""
    width, height = header.width, header.height
    each = _DECODE_BYTES.get(header.format, _OTHER_DECODE_BYTES)
    if header.keyed:
        each = max(each, _KEYED_BYTES)
    resized = 0
    for step in spec.steps:
        if isinstance(step, (Resize, Thumbnail, Patches)):
            # Exif may turn it, which is not known yet
            resized = max(_resize_bytes(step, width, height, spec), _resize_bytes(step, height, width, spec))
            break
        if isinstance(step, ON_ARRAYS):
            each = max(each, _FLOAT_BYTES)
    return width * height * each + _SIDE_BYTES * (width + height) + resized + 2 * header.bytes


def _resize_bytes(step: Resize | Thumbnail | Patches, width: int, height: int, spec: PreprocessSpec) -> int:
    """What resizing makes beside the image: the result, and the image between its two passes."""
    new_height, new_width = step.size(height, width)
    if new_height * new_width > spec.limits.max_pixels:
        return 0  # refused when it comes to that
    # Pillow begins with the rows, and with the columns where an image is over 100 times as high as it is wide
    between = new_width * height if height <= 100 * width or new_height >= height else width * new_height
    each = _FLOAT_BYTES if any(isinstance(other, ON_ARRAYS) for other in spec.steps) else 4
    return 4 * between + each * new_width * new_height
