"""The torch module that becomes the graph: uint8 pixels in, embedding and last_hidden_state out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitriton_export._checkpoint.network import PixelNetwork
from vitriton_export._errors import ExportError
from vitriton_export._graph import naflex
from vitriton_export._options import Pooling
from vitriton_export._processors.normalization import Normalization


def pool(
    outputs: Any, pooling: Pooling, *, prefix_tokens: int, suffix_tokens: int = 0, l2_normalize: bool
) -> torch.Tensor:
    """Pools a transformers output into the embedding.

    Args:
        outputs: the output of the model: last_hidden_state (B, T, D) or (B, D, h, w), pooler_output (B, D) or
            (B, D, 1, 1) where the model has a pooler, image_embeds (B, D) where it has a projection.
        pooling: the kind of pooling: "pooler", "cls", "mean" or "projection".
        prefix_tokens: the number of tokens before the patches; "mean" leaves them out.
        suffix_tokens: the number of tokens after the patches; "mean" leaves them out.
        l2_normalize: whether to divide by the Euclidean length.

    Returns:
        (B, D).
    """
    tokens = outputs.last_hidden_state
    if pooling == "projection" and outputs.get("image_embeds") is not None:
        embedding = outputs.image_embeds
    elif pooling in ("pooler", "projection"):
        embedding = outputs.pooler_output.flatten(1)
    elif pooling == "cls":
        embedding = tokens[:, 0]
    elif pooling == "mean" and tokens.dim() == 4:
        embedding = tokens.mean(dim=(2, 3))
    elif pooling == "mean":
        embedding = tokens[:, prefix_tokens : tokens.shape[1] - suffix_tokens].mean(dim=1)
    else:
        raise ExportError(f"pooling {pooling!r} is not resolved")
    return nn.functional.normalize(embedding, p=2.0, dim=-1) if l2_normalize else embedding


class Encoder(nn.Module):
    """Normalizes, runs the model, pools.

    Both outputs have `output_dtype`, whatever dtype the model computes in; the normalization is done in float32.
    """

    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self,
        model: PixelNetwork,
        normalization: Normalization,
        pooling: Pooling,
        *,
        prefix_tokens: int,
        suffix_tokens: int = 0,
        packed: bool = False,
        l2_normalize: bool,
        output_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.prefix_tokens = prefix_tokens
        self.suffix_tokens = suffix_tokens
        self.packed = packed
        self.l2_normalize = l2_normalize
        self.output_dtype = output_dtype
        self.register_buffer("scale", torch.tensor(normalization.scale, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("bias", torch.tensor(normalization.bias, dtype=torch.float32).view(1, 3, 1, 1))
        if packed:
            naflex.make_exportable(getattr(model.model, "vision_model", model.model))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, 3) uint8 or float32 → embedding (B, D), last_hidden_state (B, T, D) or (B, D, h, w)."""
        values = pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.bias
        values = values.to(next(self.model.parameters()).dtype)
        inputs = naflex.unpack(values.permute(0, 2, 3, 1), pixels) if self.packed else {"pixel_values": values}
        outputs = self.model(**inputs)
        embedding = pool(
            outputs,
            self.pooling,
            prefix_tokens=self.prefix_tokens,
            suffix_tokens=self.suffix_tokens,
            l2_normalize=self.l2_normalize,
        )
        return embedding.to(self.output_dtype), outputs.last_hidden_state.to(self.output_dtype)
