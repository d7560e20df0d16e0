"""The parity gate: what was exported, run against transformers in torch float32, image by image.

`vitriton export` runs it on what it has staged, `vitriton verify` on what is deployed: two runners and one comparison.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.image_utils import load_image
from vitriton._repository.names import OUTPUT, PIXELS
from vitriton.preprocessing import ImageError, PreprocessSpec, is_scaled, preprocess

from vitriton_export._checkpoint.checkpoint import Checkpoint
from vitriton_export._errors import ParityError, one_line
from vitriton_export._graph.encoder import pool
from vitriton_export._options import Pooling
from vitriton_export._parity.corpus import EXTREME
from vitriton_export._parity.gates import Gate, alone, scaled
from vitriton_export._parity.tally import Stage, Tally
from vitriton_export._processors.reference_pixels import reference_pixels

BATCH_SIZE = 8
# Images that are also run alone: some of each of the first batches. Each costs a run of its own.
ALONE_IMAGES = 16
_ALONE_OF_A_BATCH = 4

Array = npt.NDArray[Any]
Batch = Sequence[tuple[str, bytes]]  # names and encoded files


@dataclass(frozen=True)
class Answers:
    """What one side makes of a batch of images.

    Attributes:
        refused: why an image cannot be used, by its position in the batch.
        values: by stage, (N, ...) of the N images that were not refused, in their order.
    """

    refused: dict[int, str]
    values: dict[str, Array]


class Runner(Protocol):
    """One side of the comparison."""

    def run(self, images: Sequence[bytes]) -> Answers:
        """Runs a batch of encoded files."""


@dataclass(frozen=True)
class Unusable:
    """An image that was not compared, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """How the two sides compare.

    Attributes:
        stages: in the order of the computation.
        unusable: the images that one side refused.
    """

    stages: list[Stage] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)


class Reference:
    """transformers: its loader, its PIL image processor, its model in float32.

    Args:
        checkpoint: with the model that is the reference.
        pooling: how the embedding is made of its outputs.
        l2_normalize: whether the embedding has length 1.
    """

    def __init__(self, checkpoint: Checkpoint, pooling: Pooling, *, l2_normalize: bool) -> None:
        self._checkpoint = checkpoint
        self._pooling = pooling
        self._l2_normalize = l2_normalize

    def run(self, images: Sequence[bytes]) -> Answers:
        """Pixels and both outputs.

        Raises:
            ParityError: the model does not run on what the image processor gives.
        """
        refused: dict[int, str] = {}
        pixels, inputs = [], []
        for position, data in enumerate(images):
            try:
                plain, processed = self._process(data)
            except Exception as exc:  # whatever a file makes of Pillow or of the processor, it is that file's
                refused[position] = f"transformers cannot take it: {one_line(exc)}"
            else:
                pixels.append(plain)
                inputs.append(processed)
        if not inputs:
            return Answers(refused, {})
        outputs = forward(self._checkpoint, {key: torch.cat([each[key] for each in inputs]) for key in inputs[0]})
        pooled = pool(outputs, self._pooling, **self._checkpoint.tokens, l2_normalize=self._l2_normalize)
        values = {"pooled": pooled, "unpooled": outputs.last_hidden_state}
        tensors = {tensor: values[kind].numpy() for kind, tensor in OUTPUT.items()}
        return Answers(refused, {PIXELS: np.concatenate(pixels), **tensors})

    def _process(self, data: bytes) -> tuple[Array, Mapping[str, torch.Tensor]]:
        """(1, H, W, 3) of the specification's dtype, and what the model takes, of one file."""
        processor = self._checkpoint.image_processor
        with Image.open(io.BytesIO(data)) as file:
            images = [load_image(file)]
        return reference_pixels(processor, images, self._checkpoint.spec), processor(images, return_tensors="pt")


def batches(images: Iterable[tuple[str, bytes]], size: int = BATCH_SIZE) -> Iterator[Batch]:
    """Cuts a stream of images into batches; no more than one is in memory."""
    batch: list[tuple[str, bytes]] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def compare(
    pairs: Iterable[tuple[Batch, Answers]], subject: Runner, demanded: Mapping[str, Gate], spec: PreprocessSpec
) -> Comparison:
    """Runs the subject on batches of which the reference's answers are known.

    Args:
        pairs: batches and the reference's answers; only one pair is held at a time.
        subject: what is to be proven.
        demanded: the gates, by stage; a stage that the subject does not show is not compared.
        spec: of the subject; says which images it does not decode as the reference does.

    Raises:
        ParityError: the two give arrays of different shapes.
    """
    tallies = {stage: Tally(stage, gate) for stage, gate in demanded.items()}
    unusable: list[Unusable] = []
    left_alone = ALONE_IMAGES
    for batch, expected in pairs:
        unusable += _unusable(batch, expected)
        accepted = _without(batch, expected.refused)
        actual = subject.run([data for _, data in accepted]) if accepted else Answers({}, {})
        unusable += _unusable(accepted, actual)
        kept = _without(accepted, actual.refused)
        positions = _without(range(len(accepted)), actual.refused)
        apart = [spec.scales_jpegs and is_scaled(data, spec) for _, data in kept]
        for stage in tallies.keys() & actual.values.keys():
            own = [tallies[scaled(stage) if each else stage] for each in apart]
            _add(stage, own, kept, actual.values[stage], expected.values[stage][positions])
        if len(kept) > 1:
            left_alone -= _add_alone(tallies, subject, kept[: min(left_alone, _ALONE_OF_A_BATCH)], actual)
    return Comparison([tally.result() for tally in tallies.values() if tally.images], unusable)


def check(comparison: Comparison) -> list[Stage]:
    """Refuses an export that breaches a gate.

    Returns:
        The stages, all of which have passed.

    Raises:
        ParityError: names each stage that failed, by how much, and on which image; or an image that was not compared.
    """
    if comparison.unusable:
        refused = "; ".join(f"{entry.image}: {entry.reason}" for entry in comparison.unusable)
        raise ParityError(f"images of the gate cannot be used, and nothing was installed: {refused}")
    failed = [
        f"{stage.stage} of {stage.worst[0].image}: max abs error {stage.max_abs_error:.3g}, min cosine "
        f"{stage.min_cosine:.6f}, demanded: {stage.gate}"
        for stage in comparison.stages
        if not stage.passed
    ]
    if failed:
        raise ParityError(f"the export differs from transformers and was not installed: {'; '.join(failed)}")
    return comparison.stages


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


def usable(images: Mapping[str, bytes], spec: PreprocessSpec) -> dict[str, bytes]:
    """The corpus, without the shapes that this preprocessing is right to refuse."""
    return {name: data for name, data in images.items() if name not in EXTREME or not _is_refused(data, spec)}


def _is_refused(data: bytes, spec: PreprocessSpec) -> bool:
    try:
        preprocess(data, spec)
    except ImageError:
        return True
    return False


def _add(stage: str, tallies: Sequence[Tally], batch: Batch, actual: Array, target: Array) -> None:
    if actual.shape != target.shape:
        raise ParityError(
            f"{stage}: transformers gives {list(target.shape[1:])}, and the export {list(actual.shape[1:])}"
        )
    for tally, (name, _), left, right in zip(tallies, batch, actual, target, strict=True):
        tally.add(name, left, right)


def _add_alone(tallies: Mapping[str, Tally], subject: Runner, batch: Batch, together: Answers) -> int:
    """Runs each image by itself, against what it gave in its batch; returns how many were run."""
    stages = [stage for stage in together.values if alone(stage) in tallies]
    for position, (name, data) in enumerate(batch):
        single = subject.run([data])
        for stage in stages:
            tallies[alone(stage)].add(name, single.values[stage][0], together.values[stage][position])
    return len(batch)


def _without(items: Any, refused: Mapping[int, str]) -> list[Any]:
    return [item for position, item in enumerate(items) if position not in refused]


def _unusable(batch: Batch, answers: Answers) -> list[Unusable]:
    return [Unusable(batch[position][0], reason) for position, reason in sorted(answers.refused.items())]
