"""ONNX Runtime in this process, on the served graph."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from vitriton._repository.names import PIXELS, step_names
from vitriton.preprocessing import PreprocessSpec, preprocess
from vitriton_bench._errors import BenchError

from report.rounds.speed import Sample, cycled, repeat

Embeddings = npt.NDArray[Any]


class Bare:
    """ONNX Runtime alone on an exported graph, in this process, on all cores (or the GPU).

    Args:
        repository: the model repository.
        name: the name of the export.
        images: the encoded images.
        cores: the number of threads.
        gpu: whether to run on the GPU.
    """

    def __init__(self, repository: Path, name: str, images: Sequence[bytes], cores: int, *, gpu: bool) -> None:
        version = _version_folder(repository / step_names(name, "pooled")[1])
        self.graph = version / "model.onnx"
        self._session = onnx_session(str(self.graph), cores, gpu=gpu)
        self.spec = read_spec(repository, name)
        self._images = images
        self._threads = ThreadPoolExecutor(cores)
        self._pixels = self._decode(images)

    def embed(self, images: Sequence[bytes]) -> Embeddings:
        """Embeds images, (N, D): decodes them on all cores and computes them together."""
        return self.run(self._decode(images))

    def ready_pixels(self, batch: int, seconds: float) -> Sample:
        """Measures the speed of the graph alone, on decoded pixels."""
        pixels = self._pixels[np.arange(batch) % len(self._pixels)]
        return repeat(lambda: self.run(pixels), batch, seconds)

    def from_bytes(self, batch: int, seconds: float) -> Sample:
        """Measures the speed of decoding and computing in one process."""
        batches = itertools.cycle(self._rotations(batch))
        return repeat(lambda: self.embed(next(batches)), batch, seconds)

    def run(self, pixels: Embeddings) -> Embeddings:
        """Runs the graph: (N, H, W, 3) → (N, D)."""
        made: Embeddings = self._session.run(None, {PIXELS: pixels})[0]
        return made

    def _rotations(self, batch: int) -> list[list[bytes]]:
        """Batches that start at each image, so that small batches cover all images."""
        return [cycled([*self._images[start:], *self._images[:start]], batch) for start in range(len(self._images))]

    def _decode(self, images: Sequence[bytes]) -> Embeddings:
        if len(images) == 1:
            return preprocess(images[0], self.spec)[np.newaxis]
        return np.stack(list(self._threads.map(lambda image: preprocess(image, self.spec), images)))


def onnx_session(model: Any, cores: int, *, gpu: bool) -> ort.InferenceSession:
    """Makes a session from a model's path or bytes, on the GPU or on this number of cores.

    Raises:
        BenchError: the GPU cannot be used.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = cores
    if not gpu:
        return ort.InferenceSession(model, options, ["CPUExecutionProvider"])
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels are not on a library path
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})  # as an export has it
    session = ort.InferenceSession(model, options, [cuda, "CPUExecutionProvider"])
    if session.get_providers()[0] != cuda[0]:
        raise BenchError("onnxruntime could not start its CUDA provider; its own error above names what is missing")
    return session


def read_spec(repository: Path, name: str) -> PreprocessSpec:
    """Reads the steps of preprocessing of an export."""
    folder = _version_folder(repository / step_names(name, "pooled")[0])
    return PreprocessSpec.from_json((folder / "preprocess.json").read_text())


def _version_folder(model: Path) -> Path:
    """The folder of a model's newest version."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
