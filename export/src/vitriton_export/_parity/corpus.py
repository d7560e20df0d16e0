"""The images of the parity gate: photos, and awkward files on which two code paths may disagree."""

from __future__ import annotations

import functools
import io
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

# Exif tag 0x0112, "Orientation"
_ORIENTATION = 0x0112

# Shapes that some preprocessing would squeeze to nothing or blow up to gigabytes, and then rightly refuses.
EXTREME = ("1x1.png", "3000x10.jpg", "10x3000.jpg")


def corpus(*, large: bool = False) -> dict[str, bytes]:
    """Returns the gate's images, as encoded files by name; they are always the same.

    Args:
        large: whether to add JPEGs of up to 12 megapixels.
    """
    return _small() | _large_jpegs() if large else dict(_small())


@functools.cache
def _small() -> dict[str, bytes]:
    photos = _photos()
    cat = Image.open(io.BytesIO(photos["cat.jpg"]))
    return {**photos, **_orientations(cat), **_modes(cat), **_containers(cat), **_shapes(cat)}


def _photos() -> dict[str, bytes]:
    folder = resources.files("vitriton_export") / "photos"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".jpg")), key=lambda entry: entry.name)
    return {entry.name: entry.read_bytes() for entry in files}


def _orientations(photo: Image.Image) -> dict[str, bytes]:
    files = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        files[f"exif-orientation-{orientation}.jpg"] = _encode(photo, "JPEG", exif=exif)
    return files


def _modes(photo: Image.Image) -> dict[str, bytes]:
    ramp = np.linspace(0, 255, photo.width, dtype=np.uint8)
    translucent = photo.convert("RGBA")
    translucent.putalpha(Image.fromarray(np.tile(ramp, (photo.height, 1))))
    sixteen = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    return {
        "grayscale.jpg": _encode(photo.convert("L"), "JPEG"),
        "grayscale-alpha.png": _encode(translucent.convert("LA"), "PNG"),
        "cmyk.jpg": _encode(photo.convert("CMYK"), "JPEG"),
        "rgba.png": _encode(translucent, "PNG"),
        "palette-transparency.png": _encode(photo.quantize(64), "PNG", transparency=3),
        "1-bit.png": _encode(photo.convert("1"), "PNG"),
        "16-bit.png": _encode(Image.fromarray(sixteen), "PNG"),
    }


def _containers(photo: Image.Image) -> dict[str, bytes]:
    frames = [photo.rotate(angle) for angle in (0, 90, 180)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 100}
    return {
        "progressive.jpg": _encode(photo, "JPEG", progressive=True),
        "animated.gif": _encode(frames[0], "GIF", **animated),
        "animated.webp": _encode(frames[0], "WEBP", **animated),
        "lossless.tiff": _encode(photo, "TIFF"),
    }


def _shapes(photo: Image.Image) -> dict[str, bytes]:
    return {
        "1x1.png": _encode(photo.resize((1, 1)), "PNG"),
        "3000x10.jpg": _encode(photo.resize((3000, 10)), "JPEG"),
        "10x3000.jpg": _encode(photo.resize((10, 3000)), "JPEG"),
    }


_LARGE = (4000, 3000)


@functools.cache
def _large_jpegs() -> dict[str, bytes]:
    """Images for scaled decoding: the photos enlarged, and a mosaic of them, as detailed as a picture can be."""
    photos = _photos()
    decoded = [Image.open(io.BytesIO(data)).convert("RGB") for data in photos.values()]
    enlarged = {
        f"12-megapixels-{name}": _encode(photo.resize(_LARGE, Image.Resampling.LANCZOS), "JPEG", quality=90)
        for name, photo in zip(photos, decoded, strict=True)
    }
    mosaic = Image.new("RGB", (2501, 1999))  # not a whole number of blocks, at any scale
    for number, (left, top) in enumerate((x, y) for y in range(0, 1999, 200) for x in range(0, 2501, 200)):
        mosaic.paste(decoded[number % len(decoded)].resize((200, 200)), (left, top))
    turned = Image.Exif()
    turned[_ORIENTATION] = 6
    return {
        **enlarged,
        "mosaic.jpg": _encode(mosaic, "JPEG", quality=90),
        "mosaic-turned.jpg": _encode(mosaic, "JPEG", quality=90, exif=turned),
        "mosaic-grayscale.jpg": _encode(mosaic.convert("L"), "JPEG"),
        "mosaic-cmyk.jpg": _encode(mosaic.convert("CMYK"), "JPEG"),
        "mosaic-progressive.jpg": _encode(mosaic, "JPEG", progressive=True, subsampling=0),
    }


def _encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
