"""Small models of seeded random weights, of architectures that differ in what a graph rewrite could trip over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

from support.checkpoints import SEED, TINY

_SIZE = 32
# the example inputs of an encoder, as `onnx_export.to_onnx` takes them
INPUTS = {"pixels": (torch.zeros((2, _SIZE, _SIZE, 3), dtype=torch.uint8), {0: "batch"})}
_TINY_DINOV2 = {key: value for key, value in TINY.items() if key != "intermediate_size"}
_PYRAMID = {"image_size": _SIZE, "patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4]}


@dataclass(frozen=True)
class Architecture:
    """A small model.

    Attributes:
        make: gives it.
        pooling: what its embedding is made by.
        attentions: how many of its layers can have fused attention.
        slim: whether its last block needs one token alone.
    """

    make: Callable[[], Any]
    pooling: str
    attentions: int
    slim: bool


def _vision(name: str, **config: Any) -> Callable[[], Any]:
    return lambda: getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**config))


ARCHITECTURES = {
    "vit": Architecture(_vision("ViT", **TINY), "cls", 2, True),
    "vit-pooler": Architecture(_vision("ViT", **TINY), "pooler", 2, True),
    "vit-mean": Architecture(_vision("ViT", **TINY), "mean", 2, False),
    "deit": Architecture(_vision("DeiT", **TINY), "cls", 2, True),
    # position embeddings are interpolated in the graph, layers are scaled
    "dinov2": Architecture(_vision("Dinov2", **_TINY_DINOV2 | {"image_size": 48}), "pooler", 2, True),
    "dinov2-swiglu": Architecture(_vision("Dinov2", **_TINY_DINOV2, use_swiglu_ffn=True), "cls", 2, True),
    "clip": Architecture(_vision("CLIPVision", **TINY), "pooler", 2, True),
    # pools by an attention of its own, with a query for the whole image
    "siglip": Architecture(_vision("SiglipVision", **TINY), "pooler", 2, False),
    # biases by relative position: eager attention
    "beit": Architecture(_vision("Beit", **TINY, use_relative_position_bias=True), "cls", 0, True),
    "beit-absolute": Architecture(_vision("Beit", **TINY, use_absolute_position_embeddings=True), "cls", 2, True),
    # windows and masks
    "swin": Architecture(_vision("Swin", **_PYRAMID, window_size=4), "pooler", 0, False),
    "resnet": Architecture(
        _vision("ResNet", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"),
        "pooler",
        0,
        False,
    ),
    "convnext": Architecture(
        _vision("ConvNext", hidden_sizes=[16, 32], depths=[1, 2], num_stages=2), "pooler", 0, False
    ),
}


def make(name: str) -> tuple[Any, Architecture]:
    """The model, in evaluation mode, with biases and norms as trained ones have them: none is 0 or 1 throughout."""
    architecture = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = architecture.make().eval()
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=0.0 if key.endswith("bias") else 1.0, std=0.1)
            elif "bias_table" in key:
                torch.nn.init.normal_(parameter, std=0.5)
    return model, architecture
