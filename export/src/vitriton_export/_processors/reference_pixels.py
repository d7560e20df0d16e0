"""The pixels that transformers' image processor makes, in the layout of the tensor `pixels`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from vitriton.preprocessing import Patches, PreprocessSpec

from vitriton_export._processors.float_processor import FloatImageProcessor
from vitriton_export._processors.recipes import PLAIN, RECIPES
from vitriton_export._processors.timm_processor import TimmImageProcessor

# Two implementations of one filter on floats between 0 and 1: Pillow sums in float64, torch in float32.
FLOAT_TOLERANCE = 1e-5


def reference_pixels(processor: Any, images: list[Image.Image], spec: PreprocessSpec) -> npt.NDArray[Any]:
    """Runs `processor` up to the pixels, where the graph takes over.

    Args:
        processor: the image processor, which `describe` has accepted.
        images: the images from transformers' load_image.
        spec: the specification of `processor`.

    Returns:
        (N, H, W, 3) uint8, or float32 where the specification works on floats.
    """
    if isinstance(processor, TimmImageProcessor):
        return processor.pixels(images)
    if isinstance(processor, FloatImageProcessor):
        return np.moveaxis(processor(images, do_normalize=False, return_tensors="np")["pixel_values"], 1, -1)
    if spec.dtype == np.float32:
        return np.moveaxis(processor(images, return_tensors="np")["pixel_values"], 1, -1)
    off = dict.fromkeys(("do_rescale", "do_normalize", *RECIPES.get(type(processor).__name__, PLAIN).off), False)
    batch = processor(images, return_tensors="np", **off)
    if isinstance(spec.steps[-1], Patches):
        return _packed(batch, spec)
    return np.moveaxis(batch["pixel_values"], 1, -1)


def tolerance(processor: Any) -> float:
    """Returns the tolerance of pixels against those of `reference_pixels`."""
    return FLOAT_TOLERANCE if isinstance(processor, FloatImageProcessor) else 0.0


def _packed(batch: Any, spec: PreprocessSpec) -> npt.NDArray[np.uint8]:
    patches, shapes = np.asarray(batch["pixel_values"]), np.asarray(batch["spatial_shapes"])
    packed = np.zeros((len(patches), spec.height, spec.width, 3), patches.dtype)
    packed[:, :-1] = patches.reshape(len(patches), spec.height - 1, spec.width, 3)
    packed[:, -1].reshape(len(patches), -1)[:, :4] = shapes.astype("<u2").view(np.uint8)
    return packed
