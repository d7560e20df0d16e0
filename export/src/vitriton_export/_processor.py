"""A transformers image processor → the declarative spec of preprocessing, and the normalisation of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.image_processing_backends import PilBackend
from vitriton.preprocessing import RESAMPLE, CenterCrop, ConvertRGB, PreprocessSpec, Resize, Step

from vitriton_export._errors import ExportError, one_line

# A processor that has its own version of one of these does something that its attributes do not tell.
_BEHAVIOUR = (
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
_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


@dataclass(frozen=True)
class Normalization:
    """pixels × `rescale_factor`, minus `mean`, divided by `std`, per channel."""

    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Refuses what cannot be divided by."""
        if not all(std > 0 for std in self.std):
            raise ValueError(f"image_std is {self.std}; it must be above 0")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rescale_factor": self.rescale_factor, "mean": list(self.mean), "std": list(self.std)}

    @property
    def scale(self) -> tuple[float, ...]:
        """What a pixel is multiplied by."""
        return tuple(self.rescale_factor / std for std in self.std)

    @property
    def bias(self) -> tuple[float, ...]:
        """What is added after that."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))


def describe(processor: Any) -> tuple[PreprocessSpec, Normalization]:
    """What `processor` does, as data.

    Raises:
        ExportError: it does something that the spec cannot express; the text names the processor and the reason.
    """
    name = type(processor).__name__
    attributes: Any = processor
    if not isinstance(processor, PilBackend):
        raise ExportError(f"image processor {name} has no PIL backend, which is the reference for the pixels")
    own = [method for method in _BEHAVIOUR if getattr(type(processor), method) is not getattr(PilBackend, method)]
    if own:
        raise ExportError(f"image processor {name} has a {own[0]} of its own, which the preprocessing cannot express")
    if attributes.do_pad:
        raise ExportError(f"image processor {name} pads (do_pad), which the preprocessing cannot express")
    try:
        convert: list[Step] = [ConvertRGB()] if attributes.do_convert_rgb else []
        steps = [*convert, *_resize(attributes, name), *_crop(attributes)]
        height, width = _output_size(steps, name)
        spec = PreprocessSpec(steps=tuple(steps), height=height, width=width)
        return spec, _normalization(attributes, name)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as exc:
        raise ExportError(f"image processor {name} has settings that make no sense: {one_line(exc)}") from exc


def _resize(processor: Any, name: str) -> list[Step]:
    if not processor.do_resize:
        return []
    size = {key: int(value) for key, value in dict(processor.size).items() if value is not None}
    if set(size) not in _SIZES:
        raise ExportError(f"image processor {name} resizes to {size}, which the preprocessing cannot express")
    filters = {filter.value: key for key, filter in RESAMPLE.items()}
    if processor.resample is None or int(processor.resample) not in filters:
        raise ExportError(f"image processor {name} resamples with {processor.resample!r}, which Pillow does not have")
    return [Resize(resample=filters[int(processor.resample)], **size)]


def _crop(processor: Any) -> list[Step]:
    if not processor.do_center_crop:
        return []
    return [CenterCrop(height=int(processor.crop_size["height"]), width=int(processor.crop_size["width"]))]


def _output_size(steps: list[Step], name: str) -> tuple[int, int]:
    last = steps[-1] if steps else None
    if not isinstance(last, (Resize, CenterCrop)) or last.height is None or last.width is None:
        raise ExportError(
            f"image processor {name} gives images of different sizes (no fixed height and width, no crop), "
            "and a batch needs one size"
        )
    return last.height, last.width


def _normalization(processor: Any, name: str) -> Normalization:
    rescale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    if not processor.do_normalize:
        return Normalization(rescale, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Normalization(
        rescale,
        _channels(processor.image_mean, "image_mean", name),
        _channels(processor.image_std, "image_std", name),
    )


def _channels(value: Any, field: str, name: str) -> tuple[float, float, float]:
    values = [float(value)] * 3 if isinstance(value, (int, float)) else [float(item) for item in value]
    if len(values) != 3:
        raise ExportError(f"image processor {name} has {len(values)} values in {field}; an RGB image has 3 channels")
    return values[0], values[1], values[2]
