"""The torch module that becomes the graph of a text model: token ids in, embedding and last_hidden_state out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_LOWEST = -1e9  # below every value of a token


def pool(outputs: Any, mask: torch.Tensor, poolings: Sequence[str]) -> torch.Tensor:
    """Pools a transformers output as sentence-transformers does.

    Args:
        outputs: the output of the model: last_hidden_state (B, T, D), and pooler_output (B, D) for "pooler" and
            "projection", or text_embeds (B, D) of a tower that is a model of its own.
        mask: (B, T), 1 for tokens and 0 for the padding after them.
        poolings: the kinds of pooling, whose vectors are joined.

    Returns:
        (B, D), or with several poolings (B, D × their number).
    """
    return torch.cat([_pool(outputs, mask, each) for each in poolings], dim=-1)


def _pool(outputs: Any, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    tokens: torch.Tensor = outputs.last_hidden_state
    if pooling in ("pooler", "projection"):
        pooler: torch.Tensor = outputs["text_embeds" if "text_embeds" in outputs else "pooler_output"]
        return pooler
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "last":
        last = mask.sum(dim=1).clamp(min=1) - 1
        return tokens.gather(1, last[:, None, None].expand(-1, 1, tokens.shape[2]))[:, 0]
    kept = mask[..., None].to(tokens.dtype)
    if pooling == "max":
        return (tokens * kept + (1 - kept) * _LOWEST).amax(dim=1)
    if pooling == "weighted-mean":
        kept = kept * torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype)[None, :, None]
    count = kept.sum(dim=1).clamp(min=1e-9)
    if pooling == "mean-sqrt-len":
        count = count.sqrt()
    return (tokens * kept).sum(dim=1) / count


def embed(
    outputs: Any,
    mask: torch.Tensor,
    poolings: Sequence[str],
    dense: nn.Module,
    *,
    dimensions: int | None,
    l2_normalize: bool,
) -> torch.Tensor:
    """Makes the embedding of a transformers output: pools, applies the layers after it, cuts and normalizes.

    Args:
        outputs: see `pool`.
        mask: see `pool`.
        poolings: see `pool`.
        dense: the layers after the pooling.
        dimensions: the number of leading dimensions to keep (Matryoshka); None: all.
        l2_normalize: whether to divide by the Euclidean length, at the end.
    """
    embedding: torch.Tensor = dense(pool(outputs, mask, poolings))
    if dimensions is not None:
        embedding = embedding[:, :dimensions]
    return nn.functional.normalize(embedding, p=2.0, dim=-1) if l2_normalize else embedding


class TextEncoder(nn.Module):
    """Runs the model and makes the embedding. Both outputs have `output_dtype`, whatever the model computes in.

    With `masked` False, the model gets no attention mask, and reads padding as tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        poolings: Sequence[str],
        dense: nn.Module,
        *,
        dimensions: int | None,
        l2_normalize: bool,
        masked: bool = True,
        output_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model = model
        self.masked = masked
        self.poolings = tuple(poolings)
        self.dense = dense
        self.dimensions = dimensions
        self.l2_normalize = l2_normalize
        self.output_dtype = output_dtype

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) and (B, T) int64 → embedding (B, D), last_hidden_state (B, T, D)."""
        mask = {"attention_mask": attention_mask} if self.masked else {}
        outputs = self.model(input_ids=input_ids, **mask)
        embedding = embed(
            outputs,
            attention_mask,
            self.poolings,
            self.dense,
            dimensions=self.dimensions,
            l2_normalize=self.l2_normalize,
        )
        return embedding.to(self.output_dtype), outputs.last_hidden_state.to(self.output_dtype)
