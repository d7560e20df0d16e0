"""The default model of the comparison: a ViT with seeded random weights, since speed does not depend on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report.plan import Size

# ViT-B/16 is transformers' default configuration; ViT-Ti/16 is the smallest of the same family (Touvron et al. 2021).
_CONFIGS: dict[Size, dict[str, Any]] = {
    "base": {},
    "tiny": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
}


def random_vit(size: Size, folder: Path) -> Path:
    """Writes the checkpoint with its image processor, unless it exists.

    Args:
        size: the size: "base" (ViT-B/16) or "tiny" (ViT-Ti/16).
        folder: the folder of the checkpoint.
    """
    if not (folder / "preprocessor_config.json").is_file():  # written last
        import torch
        from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = ViTModel(ViTConfig(**_CONFIGS[size]))
        model.save_pretrained(folder)
        ViTImageProcessorPil().save_pretrained(folder)
    return folder
