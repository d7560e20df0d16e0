"""The image processor of timm's models: torchvision transforms of a PIL image, described in config.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from vitriton.preprocessing import RESAMPLE, CenterCrop, PreprocessSpec, Resize

from vitriton_export._documents import has_timm_config
from vitriton_export._errors import ExportError
from vitriton_export._processors.normalization import IDENTITY, Normalization

_TO_FLOATS = ("ToTensor", "MaybeToTensor")  # transforms before these work on gray levels


class TimmImageProcessor:
    """transformers' TimmWrapperImageProcessor, and a description of its transforms as data.

    Args:
        processor: the TimmWrapperImageProcessor.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        transforms = list(processor.val_transforms.transforms)
        names = [type(transform).__name__ for transform in transforms]
        split = next((place for place, name in enumerate(names) if name in _TO_FLOATS), None)
        if split is None or names[split + 1 :] not in ([], ["Normalize"]):
            raise ExportError(f"timm's transforms are {', '.join(names)}, which the preprocessing cannot express")
        self._on_images = transforms[:split]
        self._normalize = transforms[-1] if names[-1] == "Normalize" else None

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> dict[str, torch.Tensor]:
        """Returns the model's input, (N, 3, H, W) float32."""
        return {"pixel_values": self._processor(list(images), return_tensors=return_tensors)["pixel_values"]}

    def pixels(self, images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """Returns the images before they become floats, (N, H, W, 3)."""
        made = list(images)
        for transform in self._on_images:
            made = [transform(image) for image in made]
        return np.stack([np.asarray(image) for image in made])

    def describe(self) -> tuple[PreprocessSpec, Normalization]:
        """Returns the steps up to the pixels, and the arithmetic on the pixels.

        Raises:
            ExportError: the transforms are not timm's usual ones: Resize, then CenterCrop.
        """
        names = [type(transform).__name__ for transform in self._on_images]
        if names != ["Resize", "CenterCrop"] or self._on_images[0].max_size is not None:
            raise ExportError(f"timm's transforms are {', '.join(names)} here, which the preprocessing cannot express")
        resize, crop = _resize(self._on_images[0]), self._on_images[1]
        height, width = (int(side) for side in crop.size)
        edge = resize.shortest_edge or 0
        if (resize.height or edge) < height or (resize.width or edge) < width:
            raise ExportError(f"timm's transforms crop {height} x {width} pixels out of fewer (crop_pct above 1)")
        mean, std = IDENTITY.mean, IDENTITY.std
        if self._normalize is not None:
            mean, std = _channels(self._normalize.mean), _channels(self._normalize.std)
        steps = (resize, CenterCrop(height, width, half_even=True))
        return PreprocessSpec(steps, height, width), Normalization(1 / 255, mean, std)


def load(folder: Path, settings: dict[str, Any]) -> TimmImageProcessor | None:
    """Returns the image processor of a timm checkpoint; None if its image processor is another one.

    Raises:
        ExportError: settings are given, which this image processor does not have.
    """
    if not has_timm_config(folder):
        return None
    if settings:
        raise ExportError(
            "the image processor of a timm model has no settings (--image-processor-kwargs); what it does is in "
            "pretrained_cfg of config.json"
        )
    from transformers import TimmWrapperImageProcessor

    return TimmImageProcessor(TimmWrapperImageProcessor.from_pretrained(folder, local_files_only=True))


def _resize(transform: Any) -> Resize:
    resample = str(transform.interpolation.value)
    if resample not in RESAMPLE:
        raise ExportError(f"timm resizes by {resample}, which Pillow does not have")
    sides = [transform.size] if isinstance(transform.size, int) else list(transform.size)
    if len(sides) == 1:
        return Resize(resample, shortest_edge=int(sides[0]))
    return Resize(resample, height=int(sides[0]), width=int(sides[1]))


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in torch.as_tensor(values).flatten())
    return red, green, blue
