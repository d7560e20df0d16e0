"""Fused attention: an attention function of transformers that exports as one node, where that can express it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

_NAME = "vitriton_fused"


@contextlib.contextmanager
def attention(model: PreTrainedModel, *, fused: bool) -> Iterator[None]:
    """Has `model` exported with fused or with eager attention, for as long as the block lasts.

    The default (sdpa) exports with checks for rows that are masked altogether around each softmax, which cost time.
    Architectures that do not ask transformers for their attention function keep the one that is written into them.
    """
    if fused:
        AttentionInterface.register(_NAME, _fused)
        AttentionMaskInterface.register(_NAME, _mask)
    try:
        model.set_attn_implementation(_NAME if fused else "eager")
        yield
    finally:
        model.set_attn_implementation("eager")
        if fused:
            AttentionInterface._global_mapping.pop(_NAME)
            AttentionMaskInterface._global_mapping.pop(_NAME)


def _mask(
    *,
    attention_mask: torch.Tensor | None,
    local_size: int | None = None,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """No mask where every token attends to every other; else the one that eager attention adds to the products.

    Without a function for masks of its own, an attention function gets none at all, whatever there is to mask.
    """
    if allow_is_bidirectional_skip and attention_mask is None and local_size is None:
        return None
    mask: torch.Tensor = eager_mask(attention_mask=attention_mask, local_size=local_size, **kwargs)
    return mask


def _fused(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """com.microsoft::MultiHeadAttention, which the CPU and the CUDA provider of ONNX Runtime both have.

    Args:
        module: the attention layer.
        query: (B, heads, T, dim).
        key: the same; other shapes, as of grouped heads, fall back to the architecture's own eager attention.
        value: the same.
        attention_mask: a mask, or position biases, falls back as well.
        scaling: of the products; by default 1 / √dim.
        **kwargs: what the architecture has besides; only the eager attention reads it.

    Returns:
        (B, T, heads, dim), as every attention function of transformers; no attention weights.
    """
    plain = attention_mask is None and not any(isinstance(extra, torch.Tensor) for extra in kwargs.values())
    if not plain or not query.shape[1] == key.shape[1] == value.shape[1] or value.shape[-1] != query.shape[-1]:
        eager = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        weighted: tuple[torch.Tensor, torch.Tensor | None] = eager(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return weighted
    _, heads, _, dim = query.shape
    flat = [tensor.transpose(1, 2).flatten(2) for tensor in (query, key, value)]  # (B, T, heads × dim)
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        flat,
        {"num_heads": heads, "scale": float(dim**-0.5 if scaling is None else scaling)},
        dtype=query.dtype,
        shape=flat[0].shape,
        version=1,
    )
    return output.unflatten(2, (heads, dim)), None
