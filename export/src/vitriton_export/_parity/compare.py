"""The parity gate: compares an export with transformers in torch float32, image by image.

`vitriton export` runs it on the staged export, `vitriton verify` on the deployed one: two runners and one comparison.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.image_utils import load_image
from vitriton._repository.names import OUTPUT, PIXELS
from vitriton.preprocessing import ImageError, PreprocessSpec, preprocess

from vitriton_export._checkpoint.checkpoint import Checkpoint
from vitriton_export._errors import ParityError, one_line
from vitriton_export._graph.encoder import pool
from vitriton_export._options import Pooling
from vitriton_export._parity.corpus import EXTREME
from vitriton_export._parity.gates import Gate, alone, scaled
from vitriton_export._parity.tally import Stage, Tally
from vitriton_export._processors.reference_pixels import reference_pixels

BATCH_SIZE = 8
# The number of images that are also run alone, some of each of the first batches. Each costs another run.
ALONE_IMAGES = 16
_ALONE_OF_A_BATCH = 4

Array = npt.NDArray[Any]
Batch = Sequence[tuple[str, bytes]]  # the names and the bytes of inputs: encoded images, or texts


@dataclass(frozen=True)
class BatchResult:
    """The results of one side for a batch of images.

    Attributes:
        refused: the reasons why images cannot be used, by position in the batch.
        values: the arrays of each stage, one for each of the N inputs that were not refused, in their order: (N, ...),
            or a list where their shapes differ.
    """

    refused: dict[int, str]
    values: Mapping[str, Array | Sequence[Array]]


class Runner(Protocol):
    """One side of the comparison."""

    def run(self, images: Sequence[bytes]) -> BatchResult:
        """Runs a batch of encoded files, and returns what came out."""


@dataclass(frozen=True)
class Unusable:
    """An image that was not compared, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """The comparison of the two sides.

    Attributes:
        stages: the stages in the order of the computation.
        unusable: the images that one side refused.
    """

    stages: list[Stage] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)


class Reference:
    """transformers: its loader, its PIL image processor, its model in float32.

    Args:
        checkpoint: the checkpoint with the reference model.
        pooling: the pooling that makes the embedding from the model's outputs.
        l2_normalize: whether embeddings are scaled to length 1.
    """

    def __init__(self, checkpoint: Checkpoint, pooling: Pooling, *, l2_normalize: bool) -> None:
        self._checkpoint = checkpoint
        self._pooling = pooling
        self._l2_normalize = l2_normalize

    def run(self, images: Sequence[bytes]) -> BatchResult:
        """Computes the pixels and both outputs.

        Raises:
            ParityError: the model fails on the pixels of its image processor.
        """
        refused: dict[int, str] = {}
        pixels, inputs = [], []
        for position, data in enumerate(images):
            try:
                plain, processed = self._process(data)
            except Exception as exc:  # any failure of Pillow or of the processor is the file's
                refused[position] = f"transformers cannot read it: {one_line(exc)}"
            else:
                pixels.append(plain)
                inputs.append(processed)
        if not inputs:
            return BatchResult(refused, {})
        outputs = forward(self._checkpoint, {key: torch.cat([each[key] for each in inputs]) for key in inputs[0]})
        pooled = pool(outputs, self._pooling, **self._checkpoint.tokens, l2_normalize=self._l2_normalize)
        tensors = {OUTPUT["pooled"]: pooled.numpy(), OUTPUT["unpooled"]: outputs.last_hidden_state.numpy()}
        return BatchResult(refused, {PIXELS: np.concatenate(pixels), **tensors})

    def _process(self, data: bytes) -> tuple[Array, Mapping[str, torch.Tensor]]:
        """Returns the pixels of one file, (1, H, W, 3) in the specification's dtype, and the model's inputs."""
        processor = self._checkpoint.image_processor
        with Image.open(io.BytesIO(data)) as file:
            images = [load_image(file)]
        return reference_pixels(processor, images, self._checkpoint.spec), processor(images, return_tensors="pt")


def batches(images: Iterable[tuple[str, bytes]], size: int = BATCH_SIZE) -> Iterator[Batch]:
    """Cuts a stream of images into batches; only one batch is in memory."""
    batch: list[tuple[str, bytes]] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def compare(
    pairs: Iterable[tuple[Batch, BatchResult]],
    subject: Runner,
    demanded: Mapping[str, Gate],
    is_apart: Callable[[bytes], bool],
) -> Comparison:
    """Runs the subject on batches for which the reference's results are known.

    Args:
        pairs: the batches with the reference's results; only one pair is held at a time.
        subject: the runner of the export to check.
        demanded: the gates, by stage; a stage that the subject does not return is not compared.
        is_apart: the function that says which inputs are not prepared exactly as in the reference.

    Raises:
        ParityError: the two sides return arrays of different shapes.
    """
    tallies = {stage: Tally(stage, gate) for stage, gate in demanded.items()}
    unusable: list[Unusable] = []
    left_alone = ALONE_IMAGES
    for batch, expected in pairs:
        unusable += _unusable(batch, expected)
        accepted = _without(batch, expected.refused)
        actual = subject.run([data for _, data in accepted]) if accepted else BatchResult({}, {})
        unusable += _unusable(accepted, actual)
        kept = _without(accepted, actual.refused)
        positions = _without(range(len(accepted)), actual.refused)
        apart = [is_apart(data) for _, data in kept]
        for stage in tallies.keys() & actual.values.keys():
            own = [tallies[scaled(stage) if each else stage] for each in apart]
            _add(stage, own, kept, actual.values[stage], [expected.values[stage][position] for position in positions])
        if len(kept) > 1:
            left_alone -= _add_alone(tallies, subject, kept[: min(left_alone, _ALONE_OF_A_BATCH)], actual)
    return Comparison([tally.result() for tally in tallies.values() if tally.images], unusable)


def check(comparison: Comparison) -> list[Stage]:
    """Refuses an export that breaks a gate.

    Returns:
        The stages, all of which have passed.

    Raises:
        ParityError: a stage has failed (the text says by how much, and on which image), or an image was not compared.
    """
    if comparison.unusable:
        refused = "; ".join(f"{entry.image}: {entry.reason}" for entry in comparison.unusable)
        raise ParityError(f"test images cannot be used, and nothing was installed: {refused}")
    failed = [
        f"{stage.stage} of {stage.worst[0].image}: max abs error {stage.max_abs_error:.3g}, min cosine "
        f"{stage.min_cosine:.6f}, required: {stage.gate}"
        for stage in comparison.stages
        if not stage.passed
    ]
    if failed:
        raise ParityError(f"the export differs from transformers and was not installed: {'; '.join(failed)}")
    return comparison.stages


def forward(checkpoint: Checkpoint, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Runs the model on its image processor's output: pixel_values (B, 3, H, W) float32 → a transformers output.

    Raises:
        ParityError: the model does not accept images of that size.
    """
    try:
        with torch.no_grad():
            return checkpoint.network(**inputs)
    except (ValueError, RuntimeError, IndexError) as exc:
        size = " x ".join(str(side) for side in inputs["pixel_values"].shape[2:])
        raise ParityError(
            f"{checkpoint.source.model_id} does not take the {size} images that its image processor gives: {exc}"
        ) from exc


def usable(images: Mapping[str, bytes], spec: PreprocessSpec) -> dict[str, bytes]:
    """Returns the corpus without the extreme shapes that this preprocessing refuses, as it should."""
    return {name: data for name, data in images.items() if name not in EXTREME or not _is_refused(data, spec)}


def _is_refused(data: bytes, spec: PreprocessSpec) -> bool:
    try:
        preprocess(data, spec)
    except ImageError:
        return True
    return False


def _add(
    stage: str, tallies: Sequence[Tally], batch: Batch, actual: Array | Sequence[Array], target: Sequence[Array]
) -> None:
    for tally, (name, _), left, right in zip(tallies, batch, actual, target, strict=True):
        if left.shape != right.shape:
            raise ParityError(
                f"{stage} of {name}: transformers gives {list(right.shape)}, and the export {list(left.shape)}"
            )
        tally.add(name, left, right)


def _add_alone(tallies: Mapping[str, Tally], subject: Runner, batch: Batch, together: BatchResult) -> int:
    """Runs each image alone and compares it with its result in the batch; returns the number of images."""
    stages = [stage for stage in together.values if alone(stage) in tallies]
    for position, (name, data) in enumerate(batch):
        single = subject.run([data])
        for stage in stages:
            tallies[alone(stage)].add(name, single.values[stage][0], together.values[stage][position])
    return len(batch)


def _without(items: Any, refused: Mapping[int, str]) -> list[Any]:
    return [item for position, item in enumerate(items) if position not in refused]


def _unusable(batch: Batch, answers: BatchResult) -> list[Unusable]:
    return [Unusable(batch[position][0], reason) for position, reason in sorted(answers.refused.items())]
