"""Fused attention: an attention function for transformers that exports as one node where possible."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

_NAME = "vitriton_fused"
_KEYS = "vitriton_keys"  # the attribute of a mask that hides padding alone: the keys that it shows, (B, T)


@contextlib.contextmanager
def attention(model: Any, *, fused: bool) -> Iterator[None]:
    """Sets fused or eager attention in `model` for the length of the block.

    The default (sdpa) exports slow checks for fully masked rows around each softmax. Architectures that do not ask
    transformers for their attention function keep their own.
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
    """Returns no mask where every token attends to every other; else the mask that eager attention adds.

    An attention function without a mask function of its own gets no mask at all, whatever there is to mask.
    """
    if allow_is_bidirectional_skip and attention_mask is None and local_size is None:
        return None
    mask: torch.Tensor = eager_mask(attention_mask=attention_mask, local_size=local_size, **kwargs)
    if allow_is_bidirectional_skip and local_size is None:
        setattr(mask, _KEYS, attention_mask)  # lost if the model changes the mask, as it should be
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
    """Computes com.microsoft::MultiHeadAttention, which ONNX Runtime's CPU and CUDA providers both have.

    Args:
        module: the attention layer.
        query: the queries, (B, heads, T, dim).
        key: the keys, of the same shape; other shapes, as of grouped heads, fall back to the architecture's own eager
        attention.
        value: the values, of the same shape.
        attention_mask: the mask of padding as `_mask` made it; another one, or position biases, fall back as well;
        None: none.
        scaling: the factor of the products; by default 1 / √dim.
        **kwargs: the architecture's other arguments; only eager attention reads them.

    Returns:
        (B, T, heads, dim), as from every attention function of transformers, and no attention weights.
    """
    keys: torch.Tensor | None = getattr(attention_mask, _KEYS, None)
    plain = (attention_mask is None or keys is not None) and not any(
        isinstance(extra, torch.Tensor) for extra in kwargs.values()
    )
    if not plain or not query.shape[1] == key.shape[1] == value.shape[1] or value.shape[-1] != query.shape[-1]:
        eager = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        weighted: tuple[torch.Tensor, torch.Tensor | None] = eager(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return weighted
    _, heads, _, dim = query.shape
    flat = [tensor.transpose(1, 2).flatten(2) for tensor in (query, key, value)]  # (B, T, heads × dim)
    attributes: dict[str, Any] = {"num_heads": heads, "scale": float(dim**-0.5 if scaling is None else scaling)}
    inputs: list[torch.Tensor | None] = [*flat]
    if keys is not None:
        inputs += [None, keys.to(torch.int32)]
        attributes["mask_filter_value"] = torch.finfo(query.dtype).min
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        inputs,
        attributes,
        dtype=query.dtype,
        shape=flat[0].shape,
        version=1,
    )
    return output.unflatten(2, (heads, dim)), None
