"""Turns a transformers image processor into the declarative spec of preprocessing and the graph's normalization."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers.image_processing_backends import PilBackend
from vitriton.preprocessing import (
    CenterCrop,
    Normalize,
    Pad,
    Patches,
    PreprocessSpec,
    Rescale,
    Resize,
    ScaledDecoding,
    Step,
    Thumbnail,
)

from vitriton_export._errors import ExportError, explained
from vitriton_export._options import MAX_IMAGE_SIZE
from vitriton_export._processors.float_processor import FloatImageProcessor
from vitriton_export._processors.normalization import IDENTITY, Normalization
from vitriton_export._processors.recipes import PLAIN, RECIPES, Recipe
from vitriton_export._processors.timm_processor import TimmImageProcessor

__all__ = ["Normalization", "describe"]

# A processor that overrides one of these does something that its attributes do not show.
_BEHAVIOR = (
    "__call__",
    "preprocess",
    "_preprocess",
    "_preprocess_image_like_inputs",
    "_prepare_image_like_inputs",
    "_prepare_images_structure",
    "_standardize_kwargs",
    "process_image",
    "convert_to_rgb",
    "resize",
    "center_crop",
    "rescale",
    "normalize",
    "pad",
)

_MAX_SIDE = 4 * MAX_IMAGE_SIZE  # before a crop


def describe(processor: Any) -> tuple[PreprocessSpec, Normalization]:
    """Describes `processor` as data.

    Raises:
        ExportError: the spec cannot express what it does; the text names the processor and the reason.
    """
    name = type(processor).__name__
    with explained(f"image processor {name} has invalid settings"):
        timm = isinstance(processor, TimmImageProcessor)
        spec, normalization = processor.describe() if timm else _describe(processor, name)
        sizes = [value for step in spec.steps for value in vars(step).values() if type(value) is int]
        # larger images of the model's size would exhaust the memory
        if any(size > _MAX_SIDE for size in sizes) or _is_too_large(spec):
            raise ExportError(
                f"image processor {name} makes images of {max([*sizes, spec.height, spec.width])} pixels a side; the "
                f"most are {MAX_IMAGE_SIZE}"
            )
    return spec, normalization


_SMOOTH = ("bilinear", "bicubic", "lanczos")  # filters that weigh all the pixels they shrink, smoothly


def with_scaled_decoding(spec: PreprocessSpec, processor: Any) -> PreprocessSpec:
    """Returns the spec with scaled decoding of large JPEGs.

    Raises:
        ExportError: the image processor does not begin with a resize, or resizes without antialiasing.
    """
    filters = [step.resample for step in spec.steps if isinstance(step, (Resize, Thumbnail, Patches))]
    if filters and filters[0] not in _SMOOTH:
        raise ExportError(
            f"image processor {type(processor).__name__} resizes by {filters[0]}, which would pick other pixels of a "
            f"JPEG that is decoded at a part of its size; scaled decoding goes with {', '.join(_SMOOTH)}"
        )
    try:
        return replace(spec, steps=(ScaledDecoding(), *spec.steps))
    except ValueError as exc:
        raise ExportError(
            f"image processor {type(processor).__name__} does not begin with a resize, so JPEGs cannot be decoded at "
            "the size that it needs; leave --jpeg-decoding at exact"
        ) from exc


def _is_too_large(spec: PreprocessSpec) -> bool:
    if any(isinstance(step, Patches) for step in spec.steps):  # a row is a patch: only the number of pixels counts
        return spec.height * spec.width > MAX_IMAGE_SIZE**2
    return max(spec.height, spec.width) > MAX_IMAGE_SIZE


def _describe(processor: Any, name: str) -> tuple[PreprocessSpec, Normalization]:
    recipe = _recipe(processor, name)
    steps = [step for build in recipe.steps for step in build(processor, name)]
    normalization = recipe.normalization(processor, name)
    if processor.do_pad and recipe is PLAIN:
        steps += _padding(processor, normalization, steps, name)
        normalization = IDENTITY
    height, width = _output_size(steps, name)
    return PreprocessSpec(steps=tuple(steps), height=height, width=width), normalization


def _recipe(processor: Any, name: str) -> Recipe:
    recipe, cls = RECIPES.get(name, PLAIN), type(processor)
    if issubclass(cls, FloatImageProcessor):
        return recipe
    if not issubclass(cls, PilBackend):
        raise ExportError(f"image processor {name} has no PIL backend, which is the reference for the pixels")
    own = [method for method in _BEHAVIOR if getattr(cls, method) is not getattr(PilBackend, method)]
    unknown = [method for method in own if method not in recipe.own]
    if unknown:
        raise ExportError(
            f"image processor {name} has a {unknown[0]} of its own, which the preprocessing cannot express"
        )
    if processor.do_pad and recipe is not PLAIN and not recipe.pads:
        raise ExportError(f"image processor {name} pads (do_pad), which the preprocessing cannot express")
    return recipe


def _padding(processor: Any, normalization: Normalization, steps: list[Step], name: str) -> list[Step]:
    """Makes all steps work on floats: padding comes after normalizing, so the padding is not a gray level."""
    if not processor.pad_size:
        raise ExportError(
            f"image processor {name} pads to the largest image of a batch (do_pad without pad_size), and an embedding "
            "would depend on its neighbors"
        )
    pad = Pad(height=int(processor.pad_size["height"]), width=int(processor.pad_size["width"]))
    last = steps[-1] if steps else None
    height = width = None
    if isinstance(last, (Resize, CenterCrop)):
        height, width = last.height, last.width
        if height is None and isinstance(last, Resize):
            height = width = last.longest_edge
    if height is None or width is None or height > pad.height or width > pad.width:
        raise ExportError(
            f"image processor {name} pads to {pad.height} x {pad.width}, and its images may be larger than that"
        )
    rescale = Rescale(normalization.rescale_factor)
    if not processor.do_normalize:
        return [rescale, pad]
    return [rescale, Normalize(normalization.mean, normalization.std), pad]


def _output_size(steps: list[Step], name: str) -> tuple[int, int]:
    for step in reversed(steps):
        if isinstance(step, Patches):
            return step.max_patches + 1, step.patch_size**2
        if isinstance(step, (Resize, CenterCrop, Pad)):
            if step.height is not None and step.width is not None:
                return step.height, step.width
            break
    raise ExportError(
        f"image processor {name} gives images of different sizes (no fixed height and width, no crop), "
        "and a batch needs one size"
    )
