"""DINOv3's image processor, which works on floats, as it rescales before it resizes.

In transformers it needs torchvision. Where torchvision is installed, the reference is that class; elsewhere it is the
same arithmetic in torch: torchvision resizes a float image with torch's antialiased interpolation
(torchvision.transforms.v2.functional, resize_image).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from vitriton_export._errors import ExportError

_IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_MODES = {2: "bilinear", 3: "bicubic"}  # from PIL.Image.Resampling; torch antialiases these two


class FloatImageProcessor:
    """An image processor that rescales, resizes floats, and normalizes.

    The attributes are those of the transformers class that a subclass replaces.
    """

    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, **settings: Any) -> None:
        unknown = sorted(set(settings) - set(self.defaults))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no setting {unknown[0]!r}")
        for name, value in {**self.defaults, **settings}.items():
            setattr(self, name, value)
        if isinstance(self.size, int):
            self.size = {"height": self.size, "width": self.size}

    size: Any
    resample: Any
    rescale_factor: float
    image_mean: Any
    image_std: Any
    do_resize: bool
    do_rescale: bool
    do_normalize: bool
    do_convert_rgb: bool | None
    do_center_crop: bool | None
    do_pad: bool | None

    def __call__(
        self, images: Sequence[Image.Image], *, do_normalize: bool | None = None, return_tensors: str = "pt"
    ) -> dict[str, Any]:
        """RGB images → pixel_values, (N, 3, H, W) float32."""
        normalize = self.do_normalize if do_normalize is None else do_normalize
        reference = self._torchvision_processor()
        if reference is not None:
            return dict(reference(list(images), do_normalize=normalize, return_tensors=return_tensors))
        values = torch.stack([self._one(image, normalize=normalize) for image in images])
        return {"pixel_values": values if return_tensors == "pt" else values.numpy()}

    def _one(self, image: Image.Image, *, normalize: bool) -> torch.Tensor:
        values = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        if self.do_rescale:
            values = values * self.rescale_factor
        if self.do_resize:
            size = (int(self.size["height"]), int(self.size["width"]))
            mode = _MODES.get(int(self.resample))
            if mode is None:
                raise ExportError(
                    f"{type(self).__name__} resamples with {self.resample!r}, and floats can be resized "
                    "bilinear (2) or bicubic (3)"
                )
            values = torch.nn.functional.interpolate(
                values[None].to(torch.float32), size=size, mode=mode, align_corners=False, antialias=True
            )[0]
        if normalize:
            mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.image_mean, self.image_std))
            values = (values - mean) / std
        return values

    def _torchvision_processor(self) -> Any:
        if importlib.util.find_spec("torchvision") is None:
            return None
        import transformers

        settings = {name: getattr(self, name) for name in self.defaults}
        return getattr(transformers, type(self).__name__)(**settings)


class DINOv3ViTImageProcessor(FloatImageProcessor):
    """Replaces the class of that name in transformers, with the same defaults."""

    defaults: ClassVar[dict[str, Any]] = {
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "rescale_factor": 1 / 255,
        **_IMAGENET,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": None,
        "do_center_crop": None,
        "crop_size": None,
        "default_to_square": True,
        "do_pad": None,
        "pad_size": None,
    }


_CLASSES = {"DINOv3ViTImageProcessor": DINOv3ViTImageProcessor, "DINOv3ViTImageProcessorFast": DINOv3ViTImageProcessor}
# Entries in checkpoints that are not settings.
_NOTES = (
    "image_processor_type",
    "processor_class",
    "data_format",
    "input_data_format",
    "device",
    "return_tensors",
    "disable_grouping",
)


def load(folder: Path, settings: dict[str, Any]) -> FloatImageProcessor | None:
    """Returns the float image processor of a checkpoint; None if its image processor is another one."""
    try:
        document = json.loads((folder / "preprocessor_config.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("image_processor_type") not in _CLASSES:
        return None
    kept = {name: value for name, value in document.items() if name not in _NOTES}
    return _CLASSES[document["image_processor_type"]](**kept | settings)
