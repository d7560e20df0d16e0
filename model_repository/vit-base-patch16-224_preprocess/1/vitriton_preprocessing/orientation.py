"""Applies the Exif orientation."""

from __future__ import annotations

from typing import Any

from PIL import Image

from .tiff import Tiff

_ORIENTATION = 0x0112  # Exif tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)
_LONG_EXIF_BYTES = 65_536  # the largest JPEG segment


def load(image: Image.Image) -> Image.Image:
    """The pixels of an opened image, upright and RGB.

    Like PIL.ImageOps.exif_transpose, which also rewrites all Exif tags; that takes many times the memory of the file.
    """
    image.load()
    method = _UPRIGHT.get(read_orientation(image))
    if method is not None:
        image = image.transpose(method)
    return image if image.mode == "RGB" else image.convert("RGB")  # without copies


def read_orientation(image: Image.Image) -> Any:
    """The Exif orientation, even an invalid one.

    Pillow makes objects of all values of a tag, so this bypasses it for Exif data longer than cameras write.
    """
    exif = image.info.get("exif")
    if exif is not None and len(exif) > _LONG_EXIF_BYTES:
        found = Tiff(exif.removeprefix(b"Exif\0\0")).number(_ORIENTATION)
        if found is not None:
            return found
        del image.info["exif"]  # XMP may have it
    return image.getexif().get(_ORIENTATION, 1)


def upright_box(
    image: Image.Image, box: tuple[float, float, float, float], orientation: Any
) -> tuple[float, float, float, float]:
    """The place of a picture's top-left box once the picture is upright."""
    _, _, width, height = box
    left = image.width - width if orientation in (2, 3, 7, 8) else 0.0
    top = image.height - height if orientation in (3, 4, 6, 7) else 0.0
    if orientation in TURNED:
        left, top, width, height = top, left, height, width
    return left, top, left + width, top + height
