"""The recipes of image processors, one for each class: their steps in order, made from the processor's attributes.

A class without a recipe of its own is accepted if it overrides nothing (`PLAIN`). The parity gate checks each claim
here on every export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitriton.preprocessing import (
    RESAMPLE,
    AlignLongAxis,
    CenterCrop,
    ConvertRGB,
    FlipChannels,
    Pad,
    Patches,
    Rescale,
    Resize,
    Step,
    Thumbnail,
)

from vitriton_export._errors import ExportError
from vitriton_export._processors import normalization as _normalization
from vitriton_export._processors.normalization import Normalization

Builder = Callable[[Any, str], list[Step]]

_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
# Above this size, ConvNeXT's processor resizes without cropping.
_CONVNEXT_FULL_SIZE = 384


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The recipe for the image processors of one class.

    Attributes:
        steps: the functions that make the steps of the specification from the processor and its name.
        own: the methods that the class overrides, and whose effect is in `steps`.
        normalization: the function that reads the graph's arithmetic.
        pads: whether the class pads; `steps` has the padding.
        off: the arguments, beside do_rescale=False and do_normalize=False, with which a call returns plain pixels.
    """

    steps: tuple[Builder, ...]
    own: frozenset[str] = frozenset()
    normalization: Callable[[Any, str], Normalization] = _normalization.normalization
    pads: bool = False
    off: tuple[str, ...] = ()


def _convert(processor: Any, name: str) -> list[Step]:
    return [ConvertRGB()] if processor.do_convert_rgb else []


def _resize(processor: Any, name: str) -> list[Step]:
    if not processor.do_resize:
        return []
    size = _size(processor)
    if set(size) not in _SIZES:
        raise ExportError(f"image processor {name} resizes to {size}, which the preprocessing cannot express")
    return [Resize(resample=_filter(processor, name), **size)]


def _crop(processor: Any, name: str) -> list[Step]:
    if not processor.do_center_crop:
        return []
    return [CenterCrop(height=int(processor.crop_size["height"]), width=int(processor.crop_size["width"]))]


def _no_crop(processor: Any, name: str) -> list[Step]:
    if processor.do_center_crop:
        raise ExportError(f"image processor {name} crops (do_center_crop), which the preprocessing cannot express here")
    return []


def _convnext_resize(processor: Any, name: str) -> list[Step]:
    if not processor.do_resize:
        return []
    edge, resample = _shortest_edge(processor, name), _filter(processor, name)
    if edge >= _CONVNEXT_FULL_SIZE:
        return [Resize(resample=resample, height=edge, width=edge)]
    return [Resize(resample=resample, shortest_edge=int(edge / processor.crop_pct)), CenterCrop(edge, edge)]


def _poolformer_resize(processor: Any, name: str) -> list[Step]:
    if not processor.do_resize or processor.crop_pct is None:
        return _resize(processor, name)
    size, resample, part = _size(processor), _filter(processor, name), processor.crop_pct
    edge = size.get("shortest_edge") or (size["height"] if size["height"] == size["width"] else None)
    if edge:
        return [Resize(resample=resample, shortest_edge=int(edge / part))]
    return [Resize(resample=resample, height=int(size["height"] / part), width=int(size["width"] / part))]


def _levit_resize(processor: Any, name: str) -> list[Step]:
    size = _size(processor)
    if not processor.do_resize or "shortest_edge" not in size:
        return _resize(processor, name)
    return [Resize(resample=_filter(processor, name), shortest_edge=int((256 / 224) * size["shortest_edge"]))]


def _textnet_resize(processor: Any, name: str) -> list[Step]:
    if not processor.do_resize:
        return []
    edge, resample = _shortest_edge(processor, name), _filter(processor, name)
    return [Resize(resample=resample, shortest_edge=edge, multiple_of=int(processor.size_divisor))]


def _dpt_resize(processor: Any, name: str) -> list[Step]:
    if processor.do_resize and processor.keep_aspect_ratio:
        raise ExportError(
            f"image processor {name} gives images of different sizes (keep_aspect_ratio), and a batch needs one size; "
            "switch that off with --image-processor-kwargs '{\"keep_aspect_ratio\": false}'"
        )
    if not processor.do_resize:
        return []
    size, multiple = _size(processor), int(processor.ensure_multiple_of)
    sides = {key: round(size[key] / multiple) * multiple for key in ("height", "width")}
    return [Resize(resample=_filter(processor, name), **sides)]


def _donut(processor: Any, name: str) -> list[Step]:
    size, steps = _size(processor), list[Step]()
    height, width = size["height"], size["width"]
    if processor.do_align_long_axis:
        steps.append(AlignLongAxis(height, width))
    if processor.do_resize:
        steps.append(Resize(resample=_filter(processor, name), shortest_edge=min(height, width)))
    if not (processor.do_thumbnail and processor.do_pad):
        raise ExportError(f"image processor {name} gives images of different sizes (it does not pad)")
    return [*steps, Thumbnail(_filter(processor, name), height, width), Pad(height, width, center=True)]


def _flip(processor: Any, name: str) -> list[Step]:
    return [FlipChannels()] if processor.do_flip_channel_order else []


def _patches(processor: Any, name: str) -> list[Step]:
    if not processor.do_resize:
        raise ExportError(f"image processor {name} gives images of different sizes (do_resize is off)")
    return [Patches(_filter(processor, name), int(processor.patch_size), int(processor.max_num_patches))]


def _rescale(processor: Any, name: str) -> list[Step]:
    return [Rescale(float(processor.rescale_factor))] if processor.do_rescale else []


def _own_size(processor: Any, name: str) -> list[Step]:
    raise ExportError(f"image processor {name} keeps each image's own size, and a batch needs one size")


def _size(processor: Any) -> dict[str, int]:
    return {key: int(value) for key, value in dict(processor.size).items() if value is not None}


def _shortest_edge(processor: Any, name: str) -> int:
    size = _size(processor)
    if "shortest_edge" not in size:
        raise ExportError(f"image processor {name} resizes to {size}, and needs a shortest_edge")
    return size["shortest_edge"]


def _filter(processor: Any, name: str) -> str:
    filters = {filter.value: key for key, filter in RESAMPLE.items()}
    resample = processor.resample
    if not isinstance(resample, (int, float)) or resample not in filters:
        known = ", ".join(f"{value} ({key})" for value, key in sorted(filters.items()))
        raise ExportError(
            f"image processor {name} resamples with {resample!r}, which Pillow does not have; `resample` is a number: "
            f"{known}"
        )
    return filters[int(resample)]


PLAIN = Recipe(steps=(_convert, _resize, _crop))

# The segmentation maps that some classes also take are not images, and labels are ignored here.
_WITH_MAPS = frozenset({"preprocess", "_preprocess_image_like_inputs", "_preprocess"})

RECIPES: dict[str, Recipe] = {
    "BeitImageProcessorPil": Recipe(steps=(_convert, _resize, _crop), own=_WITH_MAPS),
    "MobileNetV2ImageProcessorPil": Recipe(steps=(_convert, _resize, _crop), own=_WITH_MAPS),
    "SegformerImageProcessorPil": Recipe(steps=(_convert, _resize), own=_WITH_MAPS),
    "DPTImageProcessorPil": Recipe(steps=(_convert, _dpt_resize), own=_WITH_MAPS | {"resize"}),
    "MobileViTImageProcessorPil": Recipe(
        steps=(_convert, _resize, _crop, _flip), own=_WITH_MAPS, normalization=_normalization.without_normalize
    ),
    "ConvNextImageProcessorPil": Recipe(
        steps=(_convert, _convnext_resize, _crop), own=frozenset({"resize", "_preprocess"})
    ),
    "PoolFormerImageProcessorPil": Recipe(
        steps=(_convert, _poolformer_resize, _crop), own=frozenset({"resize", "_preprocess"})
    ),
    "LevitImageProcessorPil": Recipe(steps=(_convert, _levit_resize, _crop), own=frozenset({"resize"})),
    "TextNetImageProcessorPil": Recipe(
        steps=(_convert, _textnet_resize, _crop), own=frozenset({"preprocess", "resize", "_preprocess"})
    ),
    "EfficientNetImageProcessorPil": Recipe(
        steps=(_convert, _resize, _crop),
        own=frozenset({"rescale", "_preprocess"}),
        normalization=_normalization.with_offset,
        off=("include_top",),
    ),
    "DonutImageProcessorPil": Recipe(
        steps=(_convert, _donut, _no_crop), own=frozenset({"preprocess", "_preprocess"}), pads=True
    ),
    "Siglip2ImageProcessorPil": Recipe(steps=(_convert, _patches), own=frozenset({"preprocess", "_preprocess"})),
    "DINOv3ViTImageProcessor": Recipe(
        steps=(_convert, _rescale, _resize, _no_crop), normalization=_normalization.only_normalize
    ),
    "GLPNImageProcessorPil": Recipe(steps=(_own_size,), own=frozenset({"preprocess", "resize", "_preprocess"})),
    "Swin2SRImageProcessorPil": Recipe(
        steps=(_own_size,), own=frozenset({"preprocess", "pad", "_preprocess"}), pads=True
    ),
}
