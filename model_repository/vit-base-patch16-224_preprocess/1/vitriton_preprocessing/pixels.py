"""Makes pixels of a decoded image, step by step."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .limits import Limits, check_resize, check_size
from .refusals import ImageError
from .spec import PreprocessSpec
from .steps import (
    RESAMPLE,
    AlignLongAxis,
    CenterCrop,
    ConvertRGB,
    FlipChannels,
    Normalize,
    Pad,
    Patches,
    Rescale,
    Resize,
    ScaledDecoding,
    Step,
    Thumbnail,
)

Pixels = npt.NDArray[Any]  # uint8, or float32 if a step works on floats


def to_pixels(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    """Runs the steps of `spec` on a decoded RGB image.

    Returns:
        (height, width, 3) of `spec.dtype`, contiguous.

    Raises:
        ImageError: a step would exceed the limit of pixels, or leave none.
    """
    return finish(image, spec.steps, spec)


def finish(value: Image.Image | Pixels, steps: tuple[Step, ...], spec: PreprocessSpec) -> Pixels:
    """Runs `steps`, the remaining ones of `spec`."""
    for step in steps:
        value = _run(step, value, spec.limits)
    pixels = np.ascontiguousarray(np.asarray(value))
    if pixels.shape != (spec.height, spec.width, 3):
        raise ImageError(f"preprocessing gave shape {pixels.shape} in place of {(spec.height, spec.width, 3)}")
    return pixels


def pack_patches(array: Pixels, step: Patches) -> Pixels:
    """Cuts a resized image, (H, W, 3) uint8, into the rows that `Patches` describes."""
    size = step.patch_size
    rows, columns = array.shape[0] // size, array.shape[1] // size
    patches = array.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(rows * columns, size * size, 3)
    packed = np.zeros((step.max_patches + 1, size * size, 3), np.uint8)
    packed[: len(patches)] = patches
    packed[-1].reshape(-1)[:4] = np.frombuffer(np.array([rows, columns], "<u2").tobytes(), np.uint8)
    return packed


def _run(step: Step, value: Image.Image | Pixels, limits: Limits) -> Image.Image | Pixels:
    """Runs one step on an image, or on (H, W, 3) after a step has made an array."""
    if isinstance(step, (Resize, Thumbnail)):
        return _resize(step, value, limits)
    if isinstance(step, Patches):
        return pack_patches(np.asarray(_resize(step, value, limits)), step)
    if isinstance(step, ScaledDecoding):  # only for a JPEG that is not decoded yet
        return value
    if isinstance(value, Image.Image) and isinstance(step, (ConvertRGB, CenterCrop, AlignLongAxis)):
        return _run_on_image(step, value, limits)
    return _run_on_array(step, np.asarray(value))


def _run_on_image(step: ConvertRGB | CenterCrop | AlignLongAxis, image: Image.Image, limits: Limits) -> Image.Image:
    if isinstance(step, ConvertRGB):
        return _convert_rgb(image)
    if isinstance(step, CenterCrop):
        return _center_crop(image, step, limits)
    upright, wide = step.height > step.width, step.width > step.height
    if (upright and image.width > image.height) or (wide and image.height > image.width):
        return image.transpose(Image.Transpose.ROTATE_270)
    return image


def _run_on_array(step: Step, array: Pixels) -> Pixels:
    if isinstance(step, Rescale):
        return _rescale(array, step.factor)
    if isinstance(step, Normalize):
        normalized: Pixels = (array - np.array(step.mean, array.dtype)) / np.array(step.std, array.dtype)
        return normalized
    if isinstance(step, FlipChannels):
        return array[..., ::-1]
    if isinstance(step, Pad):
        return _pad(array, step)
    raise ImageError(f"preprocessing cannot do {step} after a step that makes an array of the image")


def _resize(step: Resize | Thumbnail | Patches, value: Image.Image | Pixels, limits: Limits) -> Image.Image | Pixels:
    old = (value.height, value.width) if isinstance(value, Image.Image) else value.shape[:2]
    height, width = step.size(*old)
    check_resize(old, height, width, limits)
    if isinstance(step, Thumbnail) and (height, width) == old:
        return value
    if isinstance(value, Image.Image):
        return value.resize((width, height), resample=RESAMPLE[step.resample])
    # torch's antialiased interpolation was modeled on Pillow's filters: on floats they differ only by rounding
    resized = []
    for channel in range(value.shape[2]):  # one by one, because each is as large as an image
        plane = Image.fromarray(np.ascontiguousarray(value[..., channel]))
        resized.append(np.asarray(plane.resize((width, height), resample=RESAMPLE[step.resample])))
    stacked: Pixels = np.stack(resized, axis=-1)
    return stacked


_BAND_ROWS = 256


def _rescale(array: Pixels, factor: float) -> Pixels:
    """Maps uint8 to float32, some rows at a time: numpy makes 8-byte indices of a whole look-up."""
    table = (np.arange(256) * factor).astype(np.float32)
    rescaled = np.empty(array.shape, np.float32)
    for top in range(0, len(array), _BAND_ROWS):
        rescaled[top : top + _BAND_ROWS] = table[array[top : top + _BAND_ROWS]]
    return rescaled


def _pad(array: Pixels, step: Pad) -> Pixels:
    height, width = step.height - array.shape[0], step.width - array.shape[1]
    if height < 0 or width < 0:
        raise ImageError(
            f"{array.shape[1]} x {array.shape[0]} pixels are more than the {step.width} x {step.height} to pad to",
            "too_large",
        )
    top, left = (height // 2, width // 2) if step.center else (0, 0)
    return np.pad(array, ((top, height - top), (left, width - left), (0, 0)))


def _convert_rgb(image: Image.Image) -> Image.Image:
    """Like transformers.image_transforms.convert_to_rgb for an RGB image: only a transparent color remains."""
    if not isinstance(image.info.get("transparency"), tuple):  # a number is a remnant of a mode without colors
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _center_crop(image: Image.Image, crop: CenterCrop, limits: Limits) -> Image.Image:
    """Like transformers.image_transforms.center_crop, which rounds differently for padding and cropping."""
    pad_height, pad_width = max(crop.height, image.height), max(crop.width, image.width)
    check_size(pad_width, pad_height, limits)
    middle = round if crop.half_even else floor
    top, left = middle((image.height - crop.height) / 2), middle((image.width - crop.width) / 2)
    if (pad_height, pad_width) != (image.height, image.width):
        padded = Image.new("RGB", (pad_width, pad_height))
        top_pad, left_pad = ceil((pad_height - image.height) / 2), ceil((pad_width - image.width) / 2)
        padded.paste(image, (left_pad, top_pad))
        image, top, left = padded, top + top_pad, left + left_pad
    return image.crop((left, top, left + crop.width, top + crop.height))
