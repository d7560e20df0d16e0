"""Checkpoints for the tests: small ones of seeded random weights, and the trained DINOv2-small of the examples.

Torch and transformers are imported by those who make one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import trained_dinov2
from filelock import FileLock

CACHE = Path(__file__).parents[2] / ".cache"
SEED = 20240607
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_SIZE = {"height": 32, "width": 32}


def trained_dinov2_small() -> Path:
    """Trained weights, DINOv2-small; downloaded once, then kept in .cache."""
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "trained.lock"):
        return trained_dinov2.checkpoint(CACHE)


def three_blocks_of_trained_dinov2_small(folder: Path) -> Path:
    """Trained weights at a quarter of the time: its embeddings, three of its twelve blocks, and its norm.

    With the last two blocks, tokens are of the whole model's size; after the first three, they are ten times as large.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model

    trained = trained_dinov2_small()
    model = Dinov2Model.from_pretrained(trained)
    model.encoder.layer = torch.nn.ModuleList(model.encoder.layer[index] for index in (0, -2, -1))
    sizes = {name: getattr(model.config, name) for name in ("hidden_size", "num_attention_heads", "image_size")}
    model.config = Dinov2Config(**sizes, patch_size=model.config.patch_size, num_hidden_layers=3)
    model.save_pretrained(folder)
    shutil.copy(trained / "preprocessor_config.json", folder)
    return folder


def vit_base(folder: Path, **config: Any) -> Path:
    """ViT-B/16 of the default configuration, seeded random weights, with a pooler in the file."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    return _save(ViTModel, ViTConfig(**config), ViTImageProcessorPil(), folder)


def tiny_vit(folder: Path, **config: Any) -> Path:
    """A ViT with a pooler in the file."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    return _save(ViTModel, ViTConfig(**TINY | config), ViTImageProcessorPil(size=_SIZE), folder)


def tiny_vit_without_pooler(folder: Path) -> Path:
    """As google/vit-base-patch16-224 is: the file of a classifier, which holds no pooler."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    return _save(ViTForImageClassification, ViTConfig(**TINY), ViTImageProcessorPil(size=_SIZE), folder)


def tiny_deit(folder: Path) -> Path:
    """A DeiT: a distillation token beside CLS, exact resize and center crop."""
    from transformers import DeiTConfig, DeiTImageProcessorPil, DeiTModel

    processor = DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size=_SIZE)
    return _save(DeiTModel, DeiTConfig(**TINY), processor, folder)


def tiny_dinov2(folder: Path) -> Path:
    """A DINOv2: position embeddings that are interpolated, shortest-edge resize, transparent colors onto white."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        **{key: value for key, value in TINY.items() if key != "intermediate_size"} | {"image_size": 48}
    )
    processor = BitImageProcessorPil(size={"shortest_edge": 40}, crop_size=_SIZE)
    return _save(Dinov2Model, config, processor, folder)


def _save(model_class: Any, config: Any, processor: Any, folder: Path) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = model_class(config)
        # freshly made biases are zero, where trained ones are not
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
