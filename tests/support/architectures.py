"""A small configuration of each architecture of transformers that turns one image into features.

Small in every dimension that costs time, and otherwise as the class's defaults have it, so that the graph has each kind
of node that a real checkpoint's graph has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

SEED = 20240607

_VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_RATIO = {key: value for key, value in _VIT.items() if key != "intermediate_size"}  # has mlp_ratio in its place
_NAFLEX = {key: value for key, value in _VIT.items() if key != "image_size"} | {"num_patches": 16}
_SWIN: dict[str, Any] = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_PYRAMID: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
}
_CONV: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
_SAM: dict[str, Any] = {**_RATIO, "image_size": 64, "output_channels": 16, "window_size": 3, "global_attn_indexes": [1]}
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
}


@dataclass(frozen=True, kw_only=True)
class Small:
    """A small model of one architecture.

    Attributes:
        config: what differs from the configuration's defaults.
        size: of the images, a square's side; None leaves the processor's size to `processor`.
        processor: what differs from the image processor's defaults.
        processor_class: where transformers names none for the architecture, or one that is refused.
        model_class: that writes the checkpoint; by default the base model of the architecture.
    """

    config: dict[str, Any] = field(default_factory=dict)
    size: int | None = 32
    processor: dict[str, Any] = field(default_factory=dict)
    processor_class: str | None = None
    model_class: str | None = None


def _towers(vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    return {"vision_config": vision, "text_config": text}


SMALL: dict[str, Small] = {
    "aimv2": Small(config=_towers(_VIT, _TEXT) | {"projection_dim": 24}),
    "aimv2_vision_model": Small(config=_VIT),
    "altclip": Small(config=_towers(_VIT, _TEXT | {"project_dim": 24}) | {"projection_dim": 24}),
    "beit": Small(config=_VIT | {"use_relative_position_bias": True}),
    "bit": Small(config=_CONV | {"embedding_size": 16, "num_groups": 4}),
    "chinese_clip": Small(config=_towers(_VIT, _TEXT) | {"projection_dim": 24}),
    "chinese_clip_vision_model": Small(config=_VIT, processor_class="ChineseCLIPImageProcessorPil"),
    "clip": Small(config=_towers(_VIT, _TEXT) | {"projection_dim": 24}),
    "clip_vision_model": Small(config=_VIT, processor_class="CLIPImageProcessorPil"),
    "convnext": Small(config=_CONV),
    "convnextv2": Small(config=_CONV),
    "cvt": Small(config={"embed_dim": [16, 24, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}),
    "data2vec-vision": Small(config=_VIT | {"use_shared_relative_position_bias": True}),
    "deit": Small(config=_VIT),
    "dinov2": Small(config=_RATIO),
    "dinov2_with_registers": Small(config=_RATIO, processor_class="BitImageProcessorPil"),
    "dinov3_convnext": Small(config=_CONV),
    "dinov3_vit": Small(config=_VIT | {"num_register_tokens": 4}),
    "donut-swin": Small(config=_SWIN, size=64),
    "dpt": Small(config=_VIT | {"backbone_out_indices": [0, 0, 1, 1], "neck_hidden_sizes": [8, 8, 8, 8]}),
    "efficientnet": Small(
        config={"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320, "image_size": 64}, size=64
    ),
    "focalnet": Small(config={"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]}, size=64),
    "hiera": Small(
        config={
            "image_size": [64, 64],
            "embed_dim": 16,
            "depths": [1, 1, 2],
            "num_heads": [1, 2, 4],
            "num_query_pool": 2,
        },
        size=64,
    ),
    "ijepa": Small(config=_VIT),
    "internvl_vision": Small(config=_VIT, processor_class="CLIPImageProcessorPil"),
    "levit": Small(
        config={
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "down_ops": [["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]],
            "image_size": 64,
        },
        size=64,
    ),
    "maskformer-swin": Small(config=_SWIN, size=64, processor_class="ViTImageProcessorPil"),
    "metaclip_2": Small(config=_towers(_VIT, _TEXT) | {"projection_dim": 24}),
    "mlcd": Small(config=_VIT),
    "mlcd_vision_model": Small(config=_VIT, processor_class="CLIPImageProcessorPil"),
    "mobilenet_v1": Small(config={"depth_multiplier": 0.25}),
    "mobilenet_v2": Small(config={"depth_multiplier": 0.25}),
    "mobilevit": Small(
        config={"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 8, 16, 16, 24, 48], "image_size": 64}, size=64
    ),
    "mobilevitv2": Small(config={"width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1], "image_size": 64}, size=64),
    "pixio": Small(config=_RATIO),
    "poolformer": Small(config=_CONV),
    "pvt": Small(config=_PYRAMID, size=64),
    "pvt_v2": Small(config=_PYRAMID, size=64),
    "qianfan_ocr_vision": Small(config=_VIT, processor_class="CLIPImageProcessorPil"),
    "radio": Small(config=_RATIO, processor_class="CLIPImageProcessorPil"),
    "regnet": Small(config=_CONV | {"groups_width": 8, "embedding_size": 8}),
    "resnet": Small(config=_CONV | {"embedding_size": 8}),
    "sam_vision_model": Small(config=_SAM, size=64, processor_class="ViTImageProcessorPil"),
    "sam_hq_vision_model": Small(config=_SAM, size=64, processor_class="ViTImageProcessorPil"),
    "segformer": Small(config=_PYRAMID, size=64),
    "sapiens2": Small(config=_VIT | {"num_key_value_heads_per_layer": [2, 2]}, processor_class="ViTImageProcessorPil"),
    "siglip": Small(config=_towers(_VIT, _TEXT)),
    "siglip2": Small(
        config=_towers(_NAFLEX, _TEXT | {"projection_size": 32}),
        size=None,
        processor={"patch_size": 8, "max_num_patches": 24},
    ),
    "siglip2_vision_model": Small(
        config=_NAFLEX,
        size=None,
        processor={"patch_size": 8, "max_num_patches": 24},
        processor_class="Siglip2ImageProcessorPil",
    ),
    "siglip_vision_model": Small(config=_VIT, processor_class="SiglipImageProcessorPil"),
    "swiftformer": Small(config={"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 48]}, size=64),
    "swin": Small(config=_SWIN, size=64),
    "swin2sr": Small(
        config={"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        processor_class="ViTImageProcessorPil",
    ),
    "swinv2": Small(config=_SWIN, size=64),
    "textnet": Small(
        config={"hidden_sizes": [8, 8, 16, 16, 32], "stem_out_channels": 8}, size=64, processor={"do_center_crop": True}
    ),
    "timm_wrapper": Small(
        config={
            "architecture": "test_vit",
            "num_classes": 0,
            "pretrained_cfg": {
                "input_size": [3, 160, 160],
                "crop_pct": 0.95,
                "interpolation": "bicubic",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        },
        size=160,
    ),
    "tipsv2_vision_model": Small(config=_RATIO, processor_class="ViTImageProcessorPil"),
    "vit": Small(config=_VIT),
    "vit_mae": Small(config=_VIT),
    "vit_msn": Small(config=_VIT),
    "vitdet": Small(config=_RATIO, processor_class="ViTImageProcessorPil"),
    "yolos": Small(
        config=_VIT | {"image_size": [32, 32], "num_detection_tokens": 5}, processor_class="ViTImageProcessorPil"
    ),
}


def write(model_type: str, folder: Path) -> Path:
    """Writes a checkpoint of seeded random weights, with its image processor, as save_pretrained does."""
    small = SMALL[model_type]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            config = AutoConfig.for_model(model_type, **small.config)
            model = AutoModel.from_config(config) if small.model_class is None else _class(small.model_class)(config)
            enliven(model, small.size or 32)
        model.save_pretrained(folder)
    finally:
        transformers_logging.set_verbosity(verbosity)
    write_processor(model_type, small, folder)
    return folder


def enliven(model: torch.nn.Module, size: int) -> None:
    """Weights that let an image through: as initialized, some models map every image to nearly nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel() if parameter.shape[0] > 1 else parameter.shape[-1]
                parameter.normal_(std=fan_in**-0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.05)
            elif parameter.numel() > 1:
                parameter.uniform_(0.5, 1.5)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the running statistics are the mean of what is seen
        model.train()
        with torch.no_grad():
            for _ in range(4):
                model(pixel_values=torch.randn(8, 3, size, size))
    model.eval()


def write_processor(model_type: str, small: Small, folder: Path) -> None:
    if "pretrained_cfg" in small.config:  # timm's configuration has it
        return
    name = small.processor_class or IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).get("pil")
    if name is None:  # on torchvision alone
        size = {"height": small.size, "width": small.size}
        document = {"image_processor_type": "DINOv3ViTImageProcessor", "size": size, **small.processor}
        (folder / "preprocessor_config.json").write_text(json.dumps(document))
        return
    _class(name)(**_sizes(_class(name), small) | small.processor).save_pretrained(folder)


def _sizes(processor_class: Any, small: Small) -> dict[str, Any]:
    """Of the class's own kind: its edges, and a crop where it crops."""
    if small.size is None:
        return {}
    crops = getattr(processor_class, "do_center_crop", False) or small.processor.get("do_center_crop")
    side = small.size * 8 // 7 if crops and len(processor_class.size) == 1 else small.size
    sizes: dict[str, Any] = {"size": dict.fromkeys(processor_class.size, side)}
    return sizes | ({"crop_size": {"height": small.size, "width": small.size}} if crops else {})


def _class(name: str) -> Any:
    return getattr(transformers, name)
