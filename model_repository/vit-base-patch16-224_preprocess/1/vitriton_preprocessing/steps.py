"""The steps of preprocessing as data, with a class for each kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from PIL import Image

RESAMPLE = {filter.name.lower(): filter for filter in Image.Resampling}


@dataclass(frozen=True)
class Resize:
    """Resize to `height` × `width`, or the shortest edge to `shortest_edge` with the longest at most `longest_edge`.

    In the second case, `multiple_of` rounds both sides up.
    """

    resample: str
    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    multiple_of: int | None = None

    def __post_init__(self) -> None:
        """Checks that exactly one of the two ways is given."""
        if self.resample not in RESAMPLE:
            raise ValueError(f"resample is {self.resample!r}; it must be one of {', '.join(RESAMPLE)}")
        exact = (self.height or 0) > 0 and (self.width or 0) > 0
        edge = (self.shortest_edge or 0) > 0
        if exact == edge:
            raise ValueError(f"resize needs height and width, or shortest_edge, and not both: {self}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of `height` × `width` is resized to, in transformers' own arithmetic.

        Source: transformers.image_transforms, get_resize_output_image_size and get_size_with_aspect_ratio.
        """
        if self.height and self.width:
            return self.height, self.width
        if self.multiple_of:
            new_height, new_width = replace(self, multiple_of=None).size(height, width)
            return _round_up(new_height, self.multiple_of), _round_up(new_width, self.multiple_of)
        edge = self.shortest_edge or 0
        short, long = min(height, width), max(height, width)
        if self.longest_edge is None:
            new_short, new_long = edge, int(edge * long / short)
        else:
            raw = None
            if long / short * edge > self.longest_edge:
                raw = self.longest_edge * short / long
                edge = round(raw)
            if short == edge:
                return height, width
            new_short, new_long = edge, int((edge if raw is None else raw) * long / short)
        return (new_long, new_short) if width <= height else (new_short, new_long)


@dataclass(frozen=True)
class CenterCrop:
    """Crop the center to `height` × `width`; a smaller image is padded with black.

    Half a pixel rounds down, as in transformers; with `half_even` to the even number, as in torchvision.
    """

    height: int
    width: int
    half_even: bool | None = None

    def __post_init__(self) -> None:
        """Checks that the crop leaves something."""
        if self.height < 1 or self.width < 1:
            raise ValueError(f"center crop to {self.height} x {self.width} leaves nothing")


@dataclass(frozen=True)
class ConvertRGB:
    """Lay a picture with a transparent color onto white; decoding alone keeps that color's RGB values."""


@dataclass(frozen=True)
class AlignLongAxis:
    """Rotate by 90 degrees clockwise if the image's longer side is not the longer one of `height` × `width`."""

    height: int
    width: int


@dataclass(frozen=True)
class Thumbnail:
    """Shrink proportionally to fit `height` × `width`; an image that fits is unchanged."""

    resample: str
    height: int
    width: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of `height` × `width` is shrunk to.

        Source: transformers.models.donut.image_processing_pil_donut, thumbnail.
        """
        new_height, new_width = min(height, self.height), min(width, self.width)
        if (new_height, new_width) == (height, width):
            return height, width
        if height > width:
            new_width = int(width * new_height / height)
        elif width > height:
            new_height = int(height * new_width / width)
        return new_height, new_width


@dataclass(frozen=True)
class Pad:
    """Pad with zeros to `height` × `width`, around the image or after its last row and column."""

    height: int
    width: int
    center: bool = False


@dataclass(frozen=True)
class FlipChannels:
    """Reverse the channels from RGB to BGR."""


@dataclass(frozen=True)
class Rescale:
    """Multiply by `factor`. From this step on, the image is float32, and so are the pixels."""

    factor: float


@dataclass(frozen=True)
class Normalize:
    """Subtract `mean` and divide by `std`, per channel, in float32; follows `Rescale`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Patches:
    """Resize to whole patches, at most `max_patches` and nearly in proportion, and lay them out one a row.

    The result is (max_patches + 1, patch_size², 3): a row for each patch, from the top left, line by line; rows of
    zeros; and a last row whose first four bytes hold the numbers of lines and columns of patches (two little-endian
    16-bit numbers).

    Source: transformers.models.siglip2.image_processing_pil_siglip2.
    """

    resample: str
    patch_size: int
    max_patches: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of `height` × `width` is resized to, by transformers' own bisection."""
        epsilon = 1e-5
        low, high = epsilon / 10, 100.0
        while high - low >= epsilon:
            scale = (low + high) / 2
            rows, columns = self._count(scale, height), self._count(scale, width)
            low, high = (scale, high) if rows * columns <= self.max_patches else (low, scale)
        return self._count(low, height) * self.patch_size, self._count(low, width) * self.patch_size

    def _count(self, scale: float, side: int) -> int:
        return max(1, ceil(side * scale / self.patch_size))


@dataclass(frozen=True)
class ScaledDecoding:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size: the smallest with `reducing_gap` × the sides after the resize.

    This is the first step, and a resize follows, with no step between that changes a JPEG. It slightly changes the
    pixels of large JPEGs, and no others. `reducing_gap` is Pillow's: the larger, the closer to an exact resize.

    Source: PIL.Image.Image.thumbnail; "scaled decoding" of libjpeg.
    """

    # A 12-megapixel photo for 224 × 224 is decoded at 1/8; with a gap of 2 it would be at 1/4, which is much slower.
    reducing_gap: float = 1.5

    def __post_init__(self) -> None:
        """Checks that no fewer pixels are decoded than the resize needs."""
        if not 1 <= self.reducing_gap <= 64:
            raise ValueError(f"reducing_gap is {self.reducing_gap}; it must be from 1 to 64")


Step = (
    ScaledDecoding
    | ConvertRGB
    | Resize
    | CenterCrop
    | AlignLongAxis
    | Thumbnail
    | Pad
    | FlipChannels
    | Rescale
    | Normalize
    | Patches
)
ON_ARRAYS = (Rescale, Normalize, FlipChannels, Pad)  # not on images
STEPS: dict[str, type[Step]] = {
    "scaled_decoding": ScaledDecoding,
    "convert_rgb": ConvertRGB,
    "resize": Resize,
    "center_crop": CenterCrop,
    "align_long_axis": AlignLongAxis,
    "thumbnail": Thumbnail,
    "pad": Pad,
    "flip_channels": FlipChannels,
    "rescale": Rescale,
    "normalize": Normalize,
    "patches": Patches,
}


def resize_after_decoding(steps: tuple[Step, ...]) -> int | None:
    """The index of the resize after scaled decoding; None if there is none, or another step comes between."""
    for number, step in enumerate(steps[1:], start=1):
        if isinstance(step, (Resize, Thumbnail, Patches)):
            return number if isinstance(steps[0], ScaledDecoding) else None
        if not isinstance(step, ConvertRGB):  # it leaves a JPEG unchanged, which has no transparent color
            return None
    return None


def frozen(value: Any) -> Any:
    """Turns JSON's lists into tuples, so that a step can be compared and hashed."""
    return tuple(value) if isinstance(value, list) else value


def _round_up(side: int, multiple: int) -> int:
    return ceil(side / multiple) * multiple
