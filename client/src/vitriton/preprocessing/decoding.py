"""Makes pixels of an encoded image, within the limits."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from .headers import check_frames, told_before_opening, told_by, unidentified
from .limits import SCALE_DOWN, Limits, check_size
from .memory import Memory, reserve
from .orientation import load
from .pixels import Pixels, finish, to_pixels
from .refusals import ImageError, undecodable
from .scaled import load_draft, start_draft
from .spec import PreprocessSpec


def decode(data: bytes, limits: Limits) -> Image.Image:
    """Decodes an encoded image as the reference does: first frame, EXIF orientation applied, RGB.

    Source: transformers.image_utils.load_image.

    Raises:
        ImageError: the image cannot be used; the text says why.
    """
    return _opened(data, PreprocessSpec((), 0, 0, limits), None, load)


def preprocess(data: bytes, spec: PreprocessSpec, memory: Memory | None = None) -> Pixels:
    """Makes pixels of an encoded image: (height, width, 3) of `spec.dtype`.

    Args:
        data: the encoded image.
        spec: the preprocessing of the model.
        memory: the memory shared by images that are processed at the same time; None: there are no others.

    Raises:
        ImageError: the image cannot be used; the text says why.
    """

    def pixels(image: Image.Image) -> Pixels:
        draft = start_draft(image, spec)
        return to_pixels(load(image), spec) if draft is None else finish(*load_draft(image, draft, spec), spec)

    with contextlib.suppress(MemoryError):
        return _opened(data, spec, memory, pixels)
    # Another image may have taken more memory than its header promised. So try again, with no other image.
    taken = 0 if memory is None else memory.take(None)
    try:
        return _opened(data, spec, None, pixels)
    except MemoryError as exc:
        raise ImageError(
            f"there is not enough memory to decode it within {spec.limits.named('max_decode_bytes')}; {SCALE_DOWN}",
            "too_large",
        ) from exc
    finally:
        if memory is not None:
            memory.give_back(taken)


def is_scaled(data: bytes, spec: PreprocessSpec) -> bool:
    """Whether `preprocess` decodes the image at a reduced size, so that its pixels differ from the reference's.

    Raises:
        ImageError: the image cannot be used; the text says why.
    """
    return _opened(data, spec, None, lambda image: start_draft(image, spec) is not None)


_Used = TypeVar("_Used")


def _opened(data: bytes, spec: PreprocessSpec, memory: Memory | None, use: Callable[[Image.Image], _Used]) -> _Used:
    """Calls `use` with an opened image whose header is within all limits and whose memory is reserved.

    Pillow's errors become ImageError.
    """
    limits = spec.limits
    if not data:
        raise ImageError("empty (0 bytes)", "empty")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{len(data)} bytes are over {limits.named('max_bytes')}; send a smaller file", "too_large")
    Image.init()
    formats = [name for name in limits.formats if name in Image.OPEN]
    taken = 0
    try:
        told = told_before_opening(data)
        if told is not None:
            taken = reserve(memory, told, spec)
        with Image.open(io.BytesIO(data), formats=formats) as image:
            check_size(image.width, image.height, limits)
            if told is not None and image.width * image.height > told.width * told.height:
                raise ImageError(f"its header states two sizes, one of them {image.width} x {image.height}", "corrupt")
            if limits.max_frames is not None:
                check_frames(image, data, limits)
            if told is None:
                taken = reserve(memory, told_by(image, data), spec)
            return use(image)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as exc:  # Pillow's own limit, which is checked first
        pixels = re.search(r"\d+", str(exc))
        count = pixels[0] if pixels else "its"
        raise ImageError(f"{count} pixels are over {limits.named('max_pixels')}; {SCALE_DOWN}", "too_large") from exc
    except UnidentifiedImageError as exc:
        raise unidentified(data, formats) from exc
    # A malformed file can make a decoder fail in any way (OSError, SyntaxError, struct.error, zlib.error, ...), and
    # each is the fault of this image alone.
    except Exception as exc:
        raise undecodable(exc) from exc
    finally:
        if taken and memory is not None:
            memory.give_back(taken)
