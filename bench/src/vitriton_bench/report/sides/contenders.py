"""What is compared in this process: transformers' pipeline, and ONNX Runtime on the graph that is served."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import pipeline
from vitriton._names import step_names
from vitriton.preprocessing import PreprocessSpec, preprocess

from vitriton_bench.report.machine.limits import onnx_session
from vitriton_bench.report.rounds.speed import Sample, repeat
from vitriton_bench.report.sides.reference import load

Embeddings = npt.NDArray[Any]


def cycled(images: Sequence[Any], count: int) -> list[Any]:
    """So many of them, from the start again where they are fewer."""
    return list(itertools.islice(itertools.cycle(images), count))


class Pipeline:
    """`transformers.pipeline("image-feature-extraction")`, from encoded bytes to embedding.

    Args:
        model: a checkpoint's folder, or a hub id.
        dtype: "fp32", "bf16" or "fp16".
        pooling: what the embedding is: the pooler's output, or the CLS token.
        images: encoded.
        device: as torch names it.
    """

    def __init__(self, model: str, dtype: str, pooling: str, images: Sequence[bytes], device: str) -> None:
        processor, network = load(model, dtype, device)
        self.network = network
        self._pool = pooling == "pooler"
        self._images = images
        self._pipeline = pipeline("image-feature-extraction", model=network, image_processor=processor, device=device)

    def embed(self, images: Sequence[bytes], batch: int) -> Embeddings:
        """(N, D) float32."""
        opened: list[Image.Image] = [Image.open(io.BytesIO(image)) for image in images]
        made = self._pipeline(opened, batch_size=batch, pool=self._pool, return_tensors=True)
        rows = [output.reshape(-1) if self._pool else output[0, 0] for output in made]
        return torch.stack(rows).float().cpu().numpy()

    def sample(self, batch: int, seconds: float) -> Sample:
        """Its speed with batches of that size."""
        images = cycled(self._images, batch)
        return repeat(lambda: self.embed(images, batch), batch, seconds)


class Bare:
    """ONNX Runtime alone on an exported graph, in this process, on all cores (or the GPU).

    Args:
        repository: of the export.
        name: of it.
        images: encoded.
        cores: threads.
        gpu: run on the GPU.
    """

    def __init__(self, repository: Path, name: str, images: Sequence[bytes], cores: int, *, gpu: bool) -> None:
        first_step, encoder = step_names(name, "pooled")
        version = _version_folder(repository / encoder)
        self.graph = version / "model.onnx"
        self._session = onnx_session(str(self.graph), cores, gpu=gpu)
        spec = _version_folder(repository / first_step) / "preprocess.json"
        self.spec = PreprocessSpec.from_json(spec.read_text())
        self._images = images
        self._threads = ThreadPoolExecutor(cores)
        self._pixels = self._decode(images)

    def embed(self, images: Sequence[bytes]) -> Embeddings:
        """(N, D), decoded on all cores and computed together."""
        return self.run(self._decode(images))

    def ready_pixels(self, batch: int, seconds: float) -> Sample:
        """The speed of the graph alone: nothing is decoded."""
        pixels = self._pixels[np.arange(batch) % len(self._pixels)]
        return repeat(lambda: self.run(pixels), batch, seconds)

    def from_bytes(self, batch: int, seconds: float) -> Sample:
        """The speed of decoding and computing in one process."""
        batches = itertools.cycle(self._rotations(batch))
        return repeat(lambda: self.embed(next(batches)), batch, seconds)

    def _rotations(self, batch: int) -> list[list[bytes]]:
        """Batches that start at each of the images, so that small ones see all of them."""
        return [cycled([*self._images[start:], *self._images[:start]], batch) for start in range(len(self._images))]

    def _decode(self, images: Sequence[bytes]) -> Embeddings:
        if len(images) == 1:
            return preprocess(images[0], self.spec)[np.newaxis]
        return np.stack(list(self._threads.map(lambda image: preprocess(image, self.spec), images)))

    def run(self, pixels: Embeddings) -> Embeddings:
        """(N, H, W, 3) → (N, D)."""
        made: Embeddings = self._session.run(None, {"pixels": pixels})[0]
        return made


def _version_folder(model: Path) -> Path:
    """The newest version of a model."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def best_of(
    look: Callable[[int, float], Sample], choices: Sequence[int], seconds: float, looks: int
) -> dict[int, float]:
    """Images/s by choice, the best of several short looks, in which the choices take turns."""
    speeds = dict.fromkeys(choices, 0.0)
    for _ in range(looks):
        for choice in choices:
            speeds[choice] = max(speeds[choice], look(choice, seconds).images_per_s)
    return speeds
