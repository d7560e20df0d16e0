"""What the export must know of an architecture and cannot read from its checkpoint: data, one row a model type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitriton_export._errors import ExportError


@dataclass(frozen=True)
class Family:
    """An architecture of transformers.

    Attributes:
        prefix: the tokens of last_hidden_state that come before the patches, in order.
        unused: parameters that inference does not read, so that a checkpoint may lack them.
    """

    prefix: tuple[str, ...]
    unused: tuple[str, ...] = ("embeddings.mask_token",)

    @property
    def has_cls(self) -> bool:
        """Whether the first token stands for the whole image."""
        return self.prefix[:1] == ("cls",)


FAMILIES = {
    "vit": Family(prefix=("cls",)),
    "deit": Family(prefix=("cls", "distillation")),
    "dinov2": Family(prefix=("cls",)),
}


def family(config: Any, model_id: str) -> Family:
    """The family of a transformers configuration.

    Raises:
        ExportError: it is none that can be exported; the text says whether it has images at all.
    """
    model_type = config.model_type
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    from transformers.models.auto import image_processing_auto

    supported = ", ".join(sorted(FAMILIES))
    if model_type in image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES:  # type: ignore[attr-defined]  # not in its __all__
        raise ExportError(f"{model_id} is of type {model_type}, which cannot be exported yet; supported: {supported}")
    raise ExportError(f"{model_id} is of type {model_type}, which takes no images; supported: {supported}")
