"""Writes a ViT-B/16 of seeded random weights: for benchmarks without the hub, since speed does not depend on them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not (target / "model.safetensors").is_file():
        torch.manual_seed(0)
        ViTModel(ViTConfig()).save_pretrained(target)
        ViTImageProcessorPil().save_pretrained(target)
