"""The parity gate: what was exported, run against transformers in torch float32, on the images of the corpus."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from PIL import Image
from transformers.image_utils import load_image
from vitriton.preprocessing import ImageError, PreprocessSpec, preprocess

from vitriton_export._checkpoint import Checkpoint
from vitriton_export._corpus import EXTREME
from vitriton_export._deployment import TENSOR, VERSION, Deployment
from vitriton_export._encoder import pool
from vitriton_export._errors import ParityError
from vitriton_export._options import Kind, Pooling, Precision
from vitriton_export._reference_pixels import reference_pixels, tolerance

FP32_TOLERANCE = 1e-4  # × max(1, max|reference|)
FP16_MIN_COSINE = 0.9999
_BATCH = 8

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """What transformers computes for the corpus.

    Attributes:
        pixels: by image, (H, W, 3) of the specification's dtype, from the PIL image processor.
        outputs: by kind, (N, ...) float32, in the order of `pixels`.
        pixel_tolerance: how far other pixels may be from these; 0: not at all.
    """

    pixels: dict[str, Array]
    outputs: dict[Kind, Array]
    pixel_tolerance: float = 0.0


@dataclass(frozen=True)
class Stage:
    """How one stage compares.

    Attributes:
        stage: "pixels", "embedding" or "last_hidden_state".
        images: how many were compared.
        max_abs_error: largest difference of two values; in grey levels for the pixels.
        max_abs_reference: largest value of the reference.
        min_cosine: the least cosine similarity of two vectors (of one token, of one pixel); 1 for identical.
        worst_image: the one with the largest difference.
        gate: what was demanded, in words.
        passed: whether it was met.
    """

    stage: str
    images: int
    max_abs_error: float
    max_abs_reference: float
    min_cosine: float
    worst_image: str
    gate: str
    passed: bool


def reference(
    checkpoint: Checkpoint, images: Mapping[str, bytes], pooling: Pooling, *, l2_normalize: bool
) -> Reference:
    """Runs transformers on the images: its loader, its PIL image processor, its model in float32.

    Raises:
        ParityError: the model does not run on what the image processor gives.
    """
    processor = checkpoint.image_processor
    pixels: dict[str, Array] = {}
    pooled, tokens = [], []
    for names in _batches([name for name in images if not _is_refused(name, images[name], checkpoint.spec)]):
        loaded = [load_image(Image.open(io.BytesIO(images[name]))) for name in names]
        pixels.update(zip(names, reference_pixels(processor, loaded, checkpoint.spec), strict=True))
        outputs = forward(checkpoint, processor(loaded, return_tensors="pt"))
        pooled.append(pool(outputs, pooling, **checkpoint.tokens, l2_normalize=l2_normalize).numpy())
        tokens.append(outputs.last_hidden_state.numpy())
    by_kind: dict[Kind, Array] = {"pooled": np.concatenate(pooled), "unpooled": np.concatenate(tokens)}
    return Reference(pixels, by_kind, tolerance(processor))


def compare_pixels(expected: Reference, images: Mapping[str, bytes], staging: Path, deployment: Deployment) -> Stage:
    """Runs the staged preprocessing, from its own files, against the PIL image processor."""
    version = staging / deployment.preprocess_name / VERSION
    module = _load(version / "vitriton_preprocessing.py")
    spec = module.PreprocessSpec.from_json((version / "preprocess.json").read_text())
    actual = np.stack([module.preprocess(images[name], spec) for name in expected.pixels])
    target = np.stack([expected.pixels[name] for name in expected.pixels])
    if target.dtype != actual.dtype or target.shape != actual.shape:
        raise ParityError(
            f"the PIL image processor gives {target.dtype} {target.shape[1:]}, "
            f"the preprocessing {actual.dtype} {actual.shape[1:]}"
        )
    allowed = expected.pixel_tolerance
    gate = f"max abs error <= {allowed:.3g}" if allowed else "identical"
    return _stage("pixels", actual, target, list(expected.pixels), gate, lambda error, *_: error <= allowed)


def compare_outputs(expected: Reference, staging: Path, deployment: Deployment, kind: Kind) -> Stage:
    """Runs the staged graph with ONNX Runtime on the reference's pixels."""
    path = staging / deployment.encoder_name(kind) / VERSION / "model.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are about graph optimisation, not about results
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = list(expected.pixels)
    batches = [np.stack([expected.pixels[name] for name in batch]) for batch in _batches(names)]
    actual = np.concatenate([session.run([TENSOR[kind]], {"pixels": batch})[0] for batch in batches])
    gate, passes = _gate(deployment.precision, expected.outputs[kind])
    return _stage(TENSOR[kind], actual, expected.outputs[kind], names, gate, passes)


def check(stages: list[Stage]) -> None:
    """Refuses an export that breaches a gate.

    Raises:
        ParityError: names each stage that failed, by how much, and on which image.
    """
    failed = [
        f"{stage.stage} of {stage.worst_image}: max abs error {stage.max_abs_error:.3g}, min cosine "
        f"{stage.min_cosine:.6f}, demanded: {stage.gate}"
        for stage in stages
        if not stage.passed
    ]
    if failed:
        raise ParityError(f"the export differs from transformers and was not installed: {'; '.join(failed)}")


def _gate(precision: Precision, target: Array) -> tuple[str, Any]:
    if precision == "fp32":
        tolerance = FP32_TOLERANCE * max(1.0, float(np.abs(target).max()))
        return f"max abs error <= {tolerance:.3g}", lambda error, _: error <= tolerance
    return f"cosine >= {FP16_MIN_COSINE}", lambda _, cosine: cosine >= FP16_MIN_COSINE


def _stage(stage: str, actual: Array, target: Array, names: list[str], gate: str, passes: Any) -> Stage:
    left, right = (array.reshape(len(names), -1).astype(np.float64) for array in (actual, target))
    errors = np.abs(left - right).max(axis=1)
    cosines = _cosines(
        *(array.reshape(len(names), -1, array.shape[-1]).astype(np.float64) for array in (actual, target))
    )
    worst = int(errors.argmax()) if np.isfinite(errors).all() else int(np.argmin(np.isfinite(errors)))
    error, cosine = float(errors[worst]), float(np.minimum(cosines.min(), 1.0))
    passed = bool(np.isfinite(left).all() and passes(error, cosine))
    return Stage(stage, len(names), error, float(np.abs(right).max()), cosine, names[worst], gate, passed)


def _cosines(left: Array, right: Array) -> Array:
    """(N, T, D) twice → (N,): the least cosine similarity of the vectors of an image."""
    lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    dots = (left * right).sum(axis=-1)
    # two black pixels have no direction; they are equal if they are the same
    same = (left == right).all(axis=-1)
    cosines: Array = np.where(lengths > 0, dots / np.where(lengths > 0, lengths, 1), same)
    least: Array = cosines.min(axis=-1)
    return least


def forward(checkpoint: Checkpoint, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Runs the model on what its image processor gives: pixel_values (B, 3, H, W) float32 → a transformers output.

    Raises:
        ParityError: the model does not take images of that size.
    """
    try:
        with torch.no_grad():
            return checkpoint.network(**inputs)
    except (ValueError, RuntimeError, IndexError) as exc:
        size = " x ".join(str(side) for side in inputs["pixel_values"].shape[2:])
        raise ParityError(
            f"{checkpoint.source.model_id} does not take the {size} images that its image processor gives: {exc}"
        ) from exc


def _is_refused(name: str, data: bytes, spec: PreprocessSpec) -> bool:
    if name not in EXTREME:
        return False
    try:
        preprocess(data, spec)
    except ImageError:
        return True
    return False


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _load(path: Path) -> ModuleType:
    """Imports a module from a file, without putting its folder on the path for good."""
    name = "vitriton_staged_preprocessing"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ParityError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    writes_bytecode, sys.dont_write_bytecode = (
        sys.dont_write_bytecode,
        True,
    )  # the staged folder holds what was written
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes_bytecode
        del sys.modules[name]
    return module
