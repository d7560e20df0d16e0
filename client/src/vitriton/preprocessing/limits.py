"""The limits of images, which are checked before they cost anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .refusals import ImageError
from .steps import frozen

# Formats that Pillow decodes by itself, without those that start other programs (EPS: Ghostscript), are no pictures
# (PDF, video), or have no signature and so match anything (TGA).
DEFAULT_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Pillow's own limit (2 × Image.MAX_IMAGE_PIXELS): every image that the reference accepts is accepted here.
DEFAULT_MAX_PIXELS = 178_956_970
DEFAULT_MAX_BYTES = 268_435_456  # the client's max_image_bytes: an array of 89 million pixels, sent without loss

# 12 bytes a pixel at DEFAULT_MAX_PIXELS, which most formats need (`memory._DECODE_BYTES`).
DEFAULT_MAX_DECODE_BYTES = 2_147_483_648

SCALE_DOWN = "scale the image down"  # what a caller can do


@dataclass(frozen=True)
class Limits:
    """The limits of images, checked by their headers where possible. No limit changes a pixel.

    Attributes:
        max_pixels: the most pixels of the image, and of the result of any step.
        formats: the allowed formats, by Pillow's names.
        max_bytes: the most bytes of the encoded image.
        max_frames: the most frames of an animation or pages of a TIFF, of which the first is used; None: any number,
            not counted.
        max_decode_bytes: the most memory to make pixels of an image, and of all images that share a `Memory` together;
            estimated from the headers.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    formats: tuple[str, ...] = DEFAULT_FORMATS
    max_bytes: int = DEFAULT_MAX_BYTES
    max_frames: int | None = None
    max_decode_bytes: int = DEFAULT_MAX_DECODE_BYTES

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Limits:
        """Reads the result of `asdict`; a limit missing from an older file has its default."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{name: frozen(value) for name, value in known.items()})

    def named(self, name: str) -> str:
        """A limit's value and name, for a refusal."""
        return f"the model's limit of {getattr(self, name)} ({name})"


def check_size(width: int, height: int, limits: Limits) -> None:
    """Refuses an image with too many pixels."""
    if width * height > limits.max_pixels:
        raise ImageError(f"{width} x {height} pixels are over {limits.named('max_pixels')}; {SCALE_DOWN}", "too_large")


def check_resize(old: tuple[int, ...], height: int, width: int, limits: Limits) -> None:
    """Refuses an image that a resize would give too many pixels, or none."""
    resized = f"{old[1]} x {old[0]} pixels would be resized to {width} x {height}"
    if height < 1 or width < 1:
        raise ImageError(f"{resized}, which leaves no pixels; crop the image to a less extreme shape", "shape")
    if height * width > limits.max_pixels:
        raise ImageError(
            f"{resized}, over {limits.named('max_pixels')}; crop the image to a less extreme shape", "too_large"
        )
