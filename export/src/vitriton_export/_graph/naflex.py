"""SigLIP 2 NaFlex: images of different proportions in one batch, as packed patches (vitriton.preprocessing.Patches)."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn


def unpack(values: torch.Tensor, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the model's inputs.

    Args:
        values: the normalized pixels, (B, N + 1, P², 3) float32.
        pixels: the same pixels before that, uint8; the last row holds the numbers of rows and columns of patches.

    Returns:
        pixel_values (B, N, P² × 3), pixel_attention_mask (B, N), spatial_shapes (B, 2).
    """
    batch, rows = values.shape[0], values.shape[1] - 1
    header = pixels[:, -1].reshape(batch, -1)[:, :4].to(torch.int64)
    shapes = header[:, 0::2] + 256 * header[:, 1::2]
    mask = torch.arange(rows)[None] < shapes.prod(dim=1, keepdim=True)
    patches = values[:, :-1].reshape(batch, rows, -1)
    # transformers pads after normalizing
    return {
        "pixel_values": patches * mask[..., None].to(patches.dtype),
        "pixel_attention_mask": mask.to(torch.int64),
        "spatial_shapes": shapes,
    }


def make_exportable(model: nn.Module) -> None:
    """Replaces the model's interpolation of position embeddings, a loop over images, with one matrix product."""
    embeddings: Any = model.embeddings
    repeats = repeats_first_row()  # computed here: a graph that is being traced has no values
    embeddings.resize_positional_embeddings = functools.partial(resize_position_embeddings, repeats=repeats)


def resize_position_embeddings(
    embeddings: torch.Tensor, shapes: torch.Tensor, max_length: int, *, repeats: bool
) -> torch.Tensor:
    """Returns the position embeddings of each image's patches: torch's antialiased bilinear interpolation, as weights.

    Args:
        embeddings: the embeddings of the square that the model was trained with, (R, C, D).
        shapes: the numbers of rows and columns of patches, (B, 2).
        max_length: the number of patches of the longest image, N.
        repeats: the result of `repeats_first_row`.

    Returns:
        (B, N, D); after an image's own patches, the first patch's is repeated, as in transformers.
    """
    rows, columns, width = embeddings.shape
    position = torch.arange(max_length)[None]  # (1, N)
    position = torch.where(position < shapes.prod(dim=1, keepdim=True), position, 0)
    count = shapes[:, 1:]
    line = torch.div(position, count, rounding_mode="floor")
    across = _weights(position - line * count, count, columns)
    if repeats:
        line = torch.where((count == 1) & (shapes[:, :1] != rows), 0, line)
    down = _weights(line, shapes[:, :1], rows)
    weights = (down[..., :, None] * across[..., None, :]).flatten(2)  # (B, N, R × C)
    return weights.to(embeddings.dtype) @ embeddings.reshape(rows * columns, width)


def repeats_first_row() -> bool:
    """Whether this torch repeats the first row where it resizes to a single column, as 2.13 does.

    The reference is what transformers computes, so images narrower than a patch must come out the same.
    """
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 4)
    column = nn.functional.interpolate(ramp, size=(8, 1), mode="bilinear", align_corners=False, antialias=True)
    return bool((column == column[0, 0, 0]).all())


def _weights(target: torch.Tensor, length: torch.Tensor, source: int) -> torch.Tensor:
    """(B, N) positions of (B, 1) → (B, N, source): the weight of each source position (a triangle filter).

    Source: aten/src/ATen/native/cpu/UpSampleKernel.cpp, compute_indices_weights_aa.
    """
    scale = source / length.to(torch.float32)
    center = (target.to(torch.float32) + 0.5) * scale
    distance = (torch.arange(source) + 0.5 - center[..., None]) / scale.clamp(min=1.0)[..., None]
    weights = (1.0 - distance.abs()).clamp(min=0.0)
    return weights / weights.sum(dim=-1, keepdim=True)
