"""A model that takes pixel values alone; its other inputs are fixed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from vitriton_export._checkpoint.families import Family

_INTERPOLATE = "interpolate_pos_encoding"


class PixelNetwork(nn.Module):
    """Calls a transformers model, and completes its inputs."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        super().__init__()
        self.model = model
        self.ordered = family.inputs == "ordered"
        self.size = _trained_size(model) if _INTERPOLATE in inspect.signature(model.forward).parameters else None

    def forward(self, pixel_values: torch.Tensor, **inputs: Any) -> Any:
        """(B, 3, H, W), or what the model's image processor returns instead → a transformers output."""
        fixed: dict[str, Any] = {}
        if self.size is not None and pixel_values.dim() == 4 and tuple(pixel_values.shape[2:]) != self.size:
            fixed[_INTERPOLATE] = True
        if self.ordered:
            fixed["noise"] = self._ascending(pixel_values)
        return self.model(pixel_values=pixel_values, **inputs, **fixed)

    def needs_interpolation(self, height: int, width: int) -> bool:
        """Whether the model refuses images of this size unless interpolate_pos_encoding is set."""
        if self.size in (None, (height, width)):
            return False
        try:
            with torch.no_grad():
                self.model(pixel_values=torch.zeros(1, 3, height, width))
        except (ValueError, RuntimeError):
            return True
        return False

    def _ascending(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns (B, L) ascending noise: ViT-MAE sorts the patches by it, and so leaves them in their order."""
        config: Any = self.model.config  # untyped across architectures; this one has a patch_size
        patch = config.patch_size
        length = (pixel_values.shape[2] // patch) * (pixel_values.shape[3] // patch)
        noise = torch.arange(length, dtype=torch.float32, device=pixel_values.device)
        return noise[None].expand(pixel_values.shape[0], length)


def _trained_size(model: nn.Module) -> tuple[int, int] | None:
    size: Any = getattr(model.config, "image_size", None)
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
