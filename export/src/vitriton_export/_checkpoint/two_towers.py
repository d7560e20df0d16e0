"""Models with two towers, one for images and one for texts, whose projected vectors meet in one space."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from vitriton._repository.names import Tower

from vitriton_export._checkpoint.families import TextFamily
from vitriton_export._checkpoint.loading import load_model
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._checkpoint.text_architectures import TEXT_TOWERS

# The parts of a full model that the inputs of a tower go through; an architecture may lack the projections.
_PARTS: dict[Tower, tuple[str, str]] = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}


@dataclass(frozen=True, kw_only=True)
class TwoTowers:
    """A loaded model with two towers. The towers share no weights.

    Attributes:
        image: the tower for images, as a model of its own, whose pooler_output is the projected vector.
        text: the same for texts.
        logits: what turns the cosine of an image and a text into the logit of the pair: logit_scale, the factor (the
            exponential of the parameter that the weights hold), and logit_bias, the addend, where there is one.
        warnings: the warnings about the weights.
    """

    image: PreTrainedModel
    text: PreTrainedModel
    logits: Mapping[str, float]
    warnings: tuple[str, ...]


def has_two(config: Any) -> bool:
    """Whether a configuration is that of a model with two towers, both of which its weights have."""
    named = getattr(config, "architectures", None) or [""]
    # a fine-tuned classifier keeps the configuration of both, and the weights of the vision tower
    return config.model_type in TEXT_TOWERS and not str(named[0]).endswith("ForImageClassification")


def load(source: CheckpointSource) -> TwoTowers:
    """Loads a model with two towers, once for both.

    Raises:
        ExportError: it cannot be loaded, or lacks weights.
    """
    loaded = load_model(source, TextFamily(pooler=()), ())
    model = loaded.model
    return TwoTowers(
        image=_tower(model, "image"), text=_tower(model, "text"), logits=_logits(model), warnings=loaded.warnings
    )


def _tower(model: PreTrainedModel, tower: Tower) -> PreTrainedModel:
    """Returns a model that is called for the features of one tower, and holds the weights of that tower alone."""
    part: Any = copy.copy(model)
    parts = {name: module for name, module in model.named_children() if name in _PARTS[tower]}
    part._modules, part._parameters = parts, {}
    part.config = parts[_PARTS[tower][0]].config
    part.forward = getattr(part, f"get_{tower}_features")
    alone: PreTrainedModel = part
    return alone


def _logits(model: Any) -> dict[str, float]:
    with torch.no_grad():
        scale = {"logit_scale": float(model.logit_scale.exp())}
        return scale | ({"logit_bias": float(model.logit_bias)} if hasattr(model, "logit_bias") else {})
