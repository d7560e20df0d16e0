"""What the export must know of an architecture and cannot read from its checkpoint: data, one row a model type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitriton_export._errors import ExportError

POOLER = "pooler."  # what the names of a pooler's parameters start with

_TRANSFORMER = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "image_size")


@dataclass(frozen=True)
class Family:
    """An architecture of transformers.

    Attributes:
        prefix: the tokens of last_hidden_state that come before the patches, in order.
        computation: the entries of its configuration that change what it computes and do not show in the weights.
        pooler_computation: those that change its pooler alone.
        pooler_is_cls: its pooler has no parameters, and gives the CLS token of last_hidden_state.
        unused: parameters that inference does not read, so that a checkpoint may lack them.
    """

    prefix: tuple[str, ...]
    computation: tuple[str, ...] = _TRANSFORMER
    pooler_computation: tuple[str, ...] = ()
    pooler_is_cls: bool = False
    unused: tuple[str, ...] = ("embeddings.mask_token",)

    @property
    def has_cls(self) -> bool:
        """Whether the first token stands for the whole image."""
        return self.prefix[:1] == ("cls",)


FAMILIES = {
    "vit": Family(prefix=("cls",), pooler_computation=("pooler_act",)),
    "deit": Family(prefix=("cls", "distillation"), pooler_computation=("pooler_act",)),
    "dinov2": Family(prefix=("cls",), computation=(*_TRANSFORMER, "use_swiglu_ffn"), pooler_is_cls=True),
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
