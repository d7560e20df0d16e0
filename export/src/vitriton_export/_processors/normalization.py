"""The arithmetic between the pixels and the model, which the graph does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vitriton_export._errors import ExportError


@dataclass(frozen=True)
class Normalization:
    """pixels × `rescale_factor`, minus `mean`, divided by `std`, per channel."""

    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Refuses zero or negative divisors, and values that are not numbers."""
        if not all(math.isfinite(value) for value in (self.rescale_factor, *self.mean, *self.std)):
            raise ValueError(f"the normalization has a value that is not a number: {self}")
        if not all(std > 0 for std in self.std):
            raise ValueError(f"image_std is {self.std}; it must be above 0")

    def to_dict(self) -> dict[str, Any]:
        """Returns the values for JSON."""
        return {"rescale_factor": self.rescale_factor, "mean": list(self.mean), "std": list(self.std)}

    @property
    def scale(self) -> tuple[float, ...]:
        """The factor of each pixel, by channel."""
        return tuple(self.rescale_factor / std for std in self.std)

    @property
    def bias(self) -> tuple[float, ...]:
        """The number added after that, by channel."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))


IDENTITY = Normalization(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def normalization(processor: Any, name: str) -> Normalization:
    """Reads do_rescale, then do_normalize."""
    rescale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    if not processor.do_normalize:
        return Normalization(rescale, IDENTITY.mean, IDENTITY.std)
    return Normalization(
        rescale, channels(processor.image_mean, "image_mean", name), channels(processor.image_std, "image_std", name)
    )


def without_normalize(processor: Any, name: str) -> Normalization:
    """Reads do_rescale alone: the processor ignores do_normalize."""
    del name
    return Normalization(float(processor.rescale_factor) if processor.do_rescale else 1.0, IDENTITY.mean, IDENTITY.std)


def with_offset(processor: Any, name: str) -> Normalization:
    """Reads EfficientNet's: rescale_offset subtracts 1 after rescaling, include_top divides by the deviation again."""
    plain = normalization(processor, name)
    offset = 1.0 if processor.do_rescale and processor.rescale_offset else 0.0
    std = plain.std
    if processor.include_top:
        again = channels(processor.image_std, "image_std", name)
        std = (std[0] * again[0], std[1] * again[1], std[2] * again[2])
    mean = (plain.mean[0] + offset, plain.mean[1] + offset, plain.mean[2] + offset)
    return Normalization(plain.rescale_factor, mean, std)


def only_normalize(processor: Any, name: str) -> Normalization:
    """Reads do_normalize alone: the rescaling is a step of the preprocessing."""
    if not processor.do_normalize:
        return IDENTITY
    return Normalization(
        1.0, channels(processor.image_mean, "image_mean", name), channels(processor.image_std, "image_std", name)
    )


def channels(value: Any, field: str, name: str) -> tuple[float, float, float]:
    """Returns a setting that is a number for each channel, or one number for all.

    Raises:
        ExportError: the setting does not have three numbers.
    """
    values = [float(value)] * 3 if isinstance(value, (int, float)) else [float(item) for item in value]
    if len(values) != 3:
        raise ExportError(f"image processor {name} has {len(values)} values in {field}; an RGB image has 3 channels")
    return values[0], values[1], values[2]
