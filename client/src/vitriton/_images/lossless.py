"""PIL images and arrays, encoded without loss.

The format is binary PPM, the fastest that a server decodes (`preprocessing.DEFAULT_FORMATS`). Encoding and decoding
together, on one core, of a photo of 500 × 375 and enlarged to 4000 × 3000 (which flatters the compressed sizes):

    PPM                       0.5 ms   0.56 MB       109 ms   36 MB
    PNG, compress_level=0      11 ms   0.56 MB       618 ms   36 MB
    PNG, compress_level=1      23 ms   0.29 MB       937 ms    7 MB
    WebP, lossless, method=0   12 ms   0.21 MB       900 ms    5 MB

PNG's smaller size is worth its time only below about 100 to 300 Mbit/s. BMP and TIFF are as fast as PPM, but have more
complex headers.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitriton._images.failure import SourceError


def encode_pil(image: Image.Image) -> bytes:
    """Encodes a PIL image, EXIF-rotated and converted to RGB as transformers.image_utils.load_image does.

    Raises:
        SourceError: the image has no pixels, or its file is broken (PIL reads a file at first use).
    """
    try:
        rgb = ImageOps.exif_transpose(image).convert("RGB")
    # A malformed file can make a decoder fail in any way, and a closed one raises ValueError.
    except Exception as exc:
        raise SourceError(f"PIL cannot decode it: {type(exc).__name__}: {exc}", "corrupt") from exc
    if 0 in rgb.size:
        raise SourceError(f"it has no pixels: {rgb.width} x {rgb.height}", "empty")
    buffer = io.BytesIO()
    if not isinstance(rgb.info.get("transparency"), tuple):
        rgb.save(buffer, "PPM")
    else:
        # Some image processors lay the transparent color onto white, so it must be sent; PPM cannot hold it.
        rgb.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode_array(array: NDArray[Any]) -> bytes:
    """Encodes a uint8 array: (H, W, 3) or (3, H, W), or (N,), which is an encoded file.

    Raises:
        SourceError: the array has another shape or dtype, or its color axis is ambiguous.
    """
    if array.ndim == 1 and array.dtype == np.uint8:
        return array.tobytes()
    array = _colors_last(array)
    height, width, _ = array.shape
    return b"P6\n%d %d\n255\n" % (width, height) + array.tobytes()


def _colors_last(array: NDArray[Any]) -> NDArray[Any]:
    """The array as (H, W, 3)."""
    if array.ndim == 3 and array.dtype == np.uint8 and 0 not in array.shape:
        if array.shape[0] == 3 and array.shape[2] in (1, 3, 4):  # 1, 4: three rows of gray or RGBA, or a narrow image
            last = "array[:, :, 0]" if array.shape[2] == 1 else "array"  # as Pillow takes gray
            raise SourceError(
                f"the array has shape {array.shape}, and its color channels may be the first axis or the last; give "
                f"PIL.Image.fromarray({last}) if they are the last, and if they are the first "
                "PIL.Image.fromarray(array.transpose(1, 2, 0)); a tensor's array is tensor.numpy()",
                "shape",
            )
        if array.shape[2] == 3:
            return array
        if array.shape[0] == 3:
            return array.transpose(1, 2, 0)
    picture = _for_pillow(array)
    advice = f"; give PIL.Image.fromarray({picture}), which the client converts" if picture else ""
    raise SourceError(
        f"the array has shape {array.shape} and dtype {array.dtype}; it must be uint8, (H, W, 3) or (3, H, W), RGB, "
        f"with at least one pixel, and not scaled or normalized{advice}",
        "shape",
    )


def _for_pillow(array: NDArray[Any]) -> str | None:
    """The expression that Pillow takes for an array of gray or RGBA pixels; None for any other array."""
    if array.dtype != np.uint8 or 0 in array.shape or array.ndim not in (2, 3):
        return None
    if array.ndim == 2 or array.shape[2] == 4:
        return "array"
    if array.shape[2] == 1:
        return "array[:, :, 0]"
    return {1: "array[0]", 4: "array.transpose(1, 2, 0)"}.get(array.shape[0])
