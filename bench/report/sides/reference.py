"""transformers on a checkpoint: the reference of every accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoImageProcessor, AutoModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(model: str, dtype: str, device: str) -> tuple[Any, Any]:
    """Loads the image processor (Pillow's) and the model of a checkpoint, ready to compute.

    Args:
        model: the folder or hub id of the checkpoint.
        dtype: the dtype: "fp32", "bf16" or "fp16".
        device: the device, by torch's name.
    """
    processor = AutoImageProcessor.from_pretrained(model, backend="pil")  # type: ignore[no-untyped-call]  # is partial
    return processor, AutoModel.from_pretrained(model, dtype=DTYPES[dtype]).eval().to(device)


def pooled(output: Any, pooling: str) -> torch.Tensor:
    """The embeddings in a model's output, (N, D)."""
    return output.pooler_output if pooling == "pooler" else output.last_hidden_state[:, 0]  # type: ignore[no-any-return]


def worst_cosine(own: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """The lowest cosine similarity between two arrays of embeddings, (N, D) each, image by image."""
    left, right = (array.astype(np.float64).reshape(len(array), -1) for array in (own, reference))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


def flop(model: Any, pixels: torch.Tensor) -> float:
    """The operations of a forward pass of one image, (1, 3, H, W); a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(pixel_values=pixels)
    return float(counter.get_total_flops())
