"""--image-size: the settings of an image processor for another size of the model's images."""

from __future__ import annotations

from typing import Any

from vitriton_export._errors import ExportError
from vitriton_export._options import ExportOptions


def apply(processor: Any, options: ExportOptions) -> Any:
    """Checks the replaced settings, and sets the requested size.

    Raises:
        ExportError: the image processor has no such setting, or no size.
    """
    name = type(processor).__name__
    known = _settings(processor)
    unknown = sorted(set(options.image_processor_settings) - known)
    if unknown:
        raise ExportError(
            f"image processor {name} has no setting {unknown[0]!r} (--image-processor-kwargs); it has "
            f"{', '.join(sorted(known))}"
        )
    if options.image_size is not None:
        _resize(processor, name, options.image_size)
    return processor


def _settings(processor: Any) -> set[str]:
    names = getattr(processor, "_valid_kwargs_names", None) or getattr(processor, "defaults", {})
    return {name for name in names if hasattr(processor, name)}


def _resize(processor: Any, name: str, side: int) -> None:
    """Sets the sizes of resize and crop in their old proportion: 256 cropped to 224 becomes 439 cropped to 384."""
    size = {key: int(value) for key, value in dict(getattr(processor, "size", None) or {}).items() if value is not None}
    if set(size) not in ({"height", "width"}, {"shortest_edge"}) or getattr(processor, "max_num_patches", None):
        raise ExportError(
            f"image processor {name} resizes to {size or 'no fixed size'}, so --image-size has no meaning for it; use "
            "--image-processor-kwargs"
        )
    if not processor.do_resize:
        raise ExportError(f"image processor {name} does not resize (do_resize is off), and --image-size wants it to")
    crop = processor.crop_size if processor.do_center_crop else None
    old = int(crop["height"]) if crop else max(size.values())
    kind = type(processor.size)
    processor.size = _same_kind(kind, {key: round(value * side / old) if crop else side for key, value in size.items()})
    if crop:
        processor.crop_size = _same_kind(type(crop), {"height": side, "width": side})


def _same_kind(kind: type, size: dict[str, int]) -> Any:
    return size if kind is dict else kind(**size)
