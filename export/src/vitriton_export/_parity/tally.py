"""The figures of one stage, image by image, in memory that does not grow with the number of images."""

from __future__ import annotations

import heapq
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from vitriton._repository.names import PIXELS

from vitriton_export._parity.gates import Gate, scaled

WORST_IMAGES = 3  # a report names them

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ImageFigures:
    """The figures of one image.

    Attributes:
        image: the name of the image.
        max_abs_error: the largest difference of two values; infinite where a value is not finite.
        min_cosine: the lowest cosine similarity of its vectors; -1 where a value is not finite.
    """

    image: str
    max_abs_error: float
    min_cosine: float


@dataclass(frozen=True)
class Stage:
    """The figures of one stage.

    Attributes:
        stage: the name: "pixels", "embedding" or "last_hidden_state"; " alone" is added where an image alone is
            compared with the same in a batch, " scaled" where JPEGs were decoded at reduced size.
        images: the number of images compared.
        max_abs_error: the largest difference of two values; in gray levels for pixels.
        max_abs_reference: the largest absolute value of the reference.
        min_cosine: the lowest cosine similarity of two vectors (a token, a pixel); 1 for identical ones.
        mean_cosine: the mean cosine similarity of all vectors.
        gate: the demands, in words.
        passed: whether the stage meets its gate.
        worst: the images that differ most, the worst first; empty where nothing differs.
    """

    stage: str
    images: int
    max_abs_error: float
    max_abs_reference: float
    min_cosine: float
    mean_cosine: float
    gate: str
    passed: bool
    worst: tuple[ImageFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures for JSON, with null in place of infinity, which JSON lacks."""
        document = asdict(self)
        document["worst"] = [_finite(asdict(figures)) for figures in self.worst]
        return _finite(document)


class Tally:
    """Collects the figures of a stage.

    Args:
        stage: the name of the stage.
        gate: the gate of the stage, which also decides which figure makes an image the worst.

    Attributes:
        stage: the name of the stage.
        images: the number of images added so far.
    """

    def __init__(self, stage: str, gate: Gate) -> None:
        self.stage = stage
        self._gate = gate
        self.images = 0
        self._vectors = 0
        self._max_abs_error = self._max_abs_reference = 0.0
        self._min_cosine = 1.0
        self._sum_of_cosines = 0.0
        # the order of arrival decides between equals, as `ImageFigures` have no order
        self._worst: list[tuple[tuple[float, float], int, ImageFigures]] = []

    def add(self, image: str, actual: Array, target: Array) -> None:
        """Adds one image.

        Args:
            image: the name of the image.
            actual: the values of the subject: (D,), (T, D), (C, h, w), or for pixels (H, W, 3).
            target: the values of the reference, of the same shape.
        """
        left, right = (self._as_vectors(array) for array in (actual, target))
        cosines = _cosines(left, right)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            error = float(np.abs(left - right).max())
        is_finite = math.isfinite(error)
        figures = ImageFigures(image, error if is_finite else math.inf, float(cosines.min()) if is_finite else -1.0)
        self.images += 1
        self._vectors += len(cosines)
        self._max_abs_error = max(self._max_abs_error, figures.max_abs_error)
        self._max_abs_reference = max(self._max_abs_reference, float(np.abs(right).max()))
        self._min_cosine = min(self._min_cosine, figures.min_cosine)
        self._sum_of_cosines += float(cosines.sum()) if is_finite else -float(len(cosines))
        if error != 0:
            self._remember(figures)

    def result(self) -> Stage:
        """Returns the figures of all images so far."""
        figures = (self._max_abs_error, self._min_cosine, self._max_abs_reference)
        return Stage(
            stage=self.stage,
            images=self.images,
            max_abs_error=self._max_abs_error,
            max_abs_reference=self._max_abs_reference,
            min_cosine=self._min_cosine,
            mean_cosine=self._sum_of_cosines / max(1, self._vectors),
            gate=self._gate.describe(self._max_abs_reference),
            passed=self._gate.passes(*figures),
            worst=tuple(figures for _, _, figures in sorted(self._worst, reverse=True)),
        )

    def _as_vectors(self, array: Array) -> Array:
        """Returns (V, D) float64: each token, place of a feature map or pixel is a vector."""
        channels_first = array.ndim == 3 and self.stage not in (PIXELS, scaled(PIXELS))
        vectors = np.moveaxis(array, 0, -1) if channels_first else array
        return vectors.reshape(-1, vectors.shape[-1]).astype(np.float64)

    def _remember(self, figures: ImageFigures) -> None:
        error, distance = figures.max_abs_error, 1 - figures.min_cosine
        badness = (error, distance) if self._gate.tolerance is not None else (distance, error)
        entry = (badness, -self.images, figures)
        if len(self._worst) < WORST_IMAGES:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in document.items()
    }


def _cosines(left: Array, right: Array) -> Array:
    """Returns the cosine similarities of two (V, D) arrays: (V,), at most 1."""
    lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    # black pixels have no direction; two vectors without one count as equal if they are the same
    same = (left == right).all(axis=-1)
    with np.errstate(invalid="ignore"):
        cosines = np.where(lengths > 0, (left * right).sum(axis=-1) / np.where(lengths > 0, lengths, 1), same)
    bounded: Array = np.where(same, 1.0, np.minimum(cosines, 1.0))
    return bounded
