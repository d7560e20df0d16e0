"""transformers' pipeline, in this process."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image
from transformers import pipeline

from report.rounds.speed import Sample, cycled, repeat
from report.sides.reference import load

Embeddings = npt.NDArray[Any]


class Pipeline:
    """`transformers.pipeline("image-feature-extraction")`, from encoded bytes to embedding.

    Args:
        model: the folder or hub id of the checkpoint.
        dtype: the dtype: "fp32", "bf16" or "fp16".
        pooling: the pooling: the pooler's output, or the CLS token.
        images: the encoded images.
        device: the device, by torch's name.
    """

    def __init__(self, model: str, dtype: str, pooling: str, images: Sequence[bytes], device: str) -> None:
        processor, network = load(model, dtype, device)
        self.network = network
        self._pool = pooling == "pooler"
        self._images = images
        self._pipeline = pipeline("image-feature-extraction", model=network, image_processor=processor, device=device)

    def embed(self, images: Sequence[bytes], batch: int) -> Embeddings:
        """Embeds images, (N, D) float32."""
        opened: list[Image.Image] = [Image.open(io.BytesIO(image)) for image in images]
        made = self._pipeline(opened, batch_size=batch, pool=self._pool, return_tensors=True)
        rows = [output.reshape(-1) if self._pool else output[0, 0] for output in made]
        return torch.stack(rows).float().cpu().numpy()

    def sample(self, batch: int, seconds: float) -> Sample:
        """Measures the speed with this batch size."""
        images = cycled(self._images, batch)
        return repeat(lambda: self.embed(images, batch), batch, seconds)
