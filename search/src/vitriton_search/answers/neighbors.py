"""How well the neighbors of a row predict its label: what models and precisions are compared by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitriton_search.answers.errors import AnswerError
from vitriton_search.answers.vectors import Indices, Vectors
from vitriton_search.stores.store import Floats

MAX_K = 100

_Z = 1.959964  # of the normal distribution, for 95%
_BLOCK, _OTHERS = 1024, 8192  # rows; the similarities of a block with others are 32 MB


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of rows, with its 95% interval by Wilson's formula.

    Attributes:
        hits: the number of rows that count.
        rows: the number of all rows.
    """

    hits: int
    rows: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.hits / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The interval (Wilson, Journal of the American Statistical Association 22, 1927)."""
        n, p, z2 = self.rows, self.value, _Z * _Z
        middle, half = p + z2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))

    def document(self) -> dict[str, Any]:
        """The share as JSON takes it."""
        return {"value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """The rows of one label, or all of them.

    Attributes:
        label: the label; None for all rows.
        rows: the number of rows.
        accuracy: the share of rows whose k nearest vote for their label.
        recall: the share of rows with their own label among the k nearest (recall@k).
    """

    label: str | None
    rows: int
    accuracy: Share
    recall: Share

    def document(self) -> dict[str, Any]:
        """The scores as JSON takes them."""
        return {
            "label": self.label,
            "rows": self.rows,
            "accuracy": self.accuracy.document(),
            "recall": self.recall.document(),
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well neighbors tell labels.

    Attributes:
        k: the number of neighbors that vote.
        all: the scores of all rows.
        labels: the scores of each label, sorted by its name.
        alone: the number of rows whose label no other source has, which cannot be right; they count as wrong.
    """

    k: int
    all: LabelScore
    labels: Sequence[LabelScore]
    alone: int


def evaluate(
    vectors: Vectors, labels: Sequence[str | None], k: int, *, advance: Callable[[int], None] = lambda rows: None
) -> Evaluation:
    """Lets the k nearest of each labeled row vote for its label, without the row itself (leave one out).

    The votes are equal; of labels with the same number, the one with the larger sum of cosines wins. All labeled rows
    are compared, whatever index the store has. Frames of one video do not vote for each other.

    Args:
        vectors: the rows.
        labels: the label of each row, (N,); None for a row without one, which is left out.
        k: the number of neighbors, up to `MAX_K`.
        advance: a function that is told how many more rows have been compared.

    Raises:
        AnswerError: there are too few labeled rows, or only one label.
    """
    labeled = np.array([index for index, label in enumerate(labels) if label is not None], np.int64)
    names, truth = np.unique([str(labels[index]) for index in labeled.tolist()], return_inverse=True)
    if len(names) < 2:
        raise AnswerError(f"there must be two labels at least, and the labeled rows have {len(names)}")
    if len(labeled) <= k:
        raise AnswerError(f"{k} neighbors of each row need more than {k} labeled rows, and there are {len(labeled)}")
    chosen = vectors.take(labeled)
    voted, recalled = np.empty(len(labeled), np.int64), np.empty(len(labeled), bool)
    for rows, nearest, scores in nearest_rows(chosen.unit, chosen.source_numbers, k):
        voted[rows] = _votes(truth[nearest], scores)
        recalled[rows] = ((truth[nearest] == truth[rows][:, None]) & np.isfinite(scores)).any(axis=1)
        advance(len(nearest))
    right = voted == truth
    pairs = np.unique(np.stack([truth, chosen.source_numbers], axis=1), axis=0)
    sources = np.bincount(pairs[:, 0], minlength=len(names))
    return Evaluation(
        k=k,
        all=_score(None, right, recalled),
        labels=[_score(str(name), right[truth == n], recalled[truth == n]) for n, name in enumerate(names)],
        alone=int((sources[truth] == 1).sum()),
    )


def nearest_rows(unit: Floats, groups: Indices, k: int) -> Iterator[tuple[slice, Indices, Floats]]:
    """Finds the k nearest rows of each row among those of other groups, in blocks.

    Args:
        unit: the vectors, (N, D) of length 1.
        groups: the group of each row, (N,).
        k: the number of neighbors, below N.

    Yields:
        A slice of B rows, the indices of their neighbors (B, k), the nearest first, and the cosines (B, k); -inf where
        there are fewer than k.
    """
    for start in range(0, len(unit), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(unit)))
        block = unit[rows]
        best = np.full((len(block), k), -np.inf, np.float32)
        places = np.zeros((len(block), k), np.int64)
        for other in range(0, len(unit), _OTHERS):
            scores = block @ unit[other : other + _OTHERS].T
            scores[groups[rows, None] == groups[other : other + _OTHERS]] = -np.inf
            all_scores = np.concatenate([best, scores], axis=1)
            numbers = np.broadcast_to(np.arange(other, other + scores.shape[1]), scores.shape)
            all_places = np.concatenate([places, numbers], axis=1)
            taken = np.argpartition(-all_scores, k - 1, axis=1)[:, :k]
            best, places = (np.take_along_axis(each, taken, axis=1) for each in (all_scores, all_places))
        order = np.argsort(-best, axis=1, kind="stable")
        yield rows, np.take_along_axis(places, order, axis=1), np.take_along_axis(best, order, axis=1)


def _votes(labels: Indices, scores: Floats) -> Indices:
    """The label that each row's neighbors (B, k) vote for; -1 for a row without any."""
    valid = np.isfinite(scores)
    # A cosine is between -1 and 1: the sum over k neighbors never outweighs a vote.
    weights = np.where(valid, 1 + np.where(valid, scores, 0) / (2 * scores.shape[1] + 1), 0)
    sums = np.einsum("bij,bj->bi", labels[:, :, None] == labels[:, None, :], weights)
    sums[~valid] = -1
    voted = np.take_along_axis(labels, sums.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(valid.any(axis=1), voted, -1)


def _score(label: str | None, right: NDArray[np.bool_], recalled: NDArray[np.bool_]) -> LabelScore:
    return LabelScore(
        label=label,
        rows=len(right),
        accuracy=Share(hits=int(right.sum()), rows=len(right)),
        recall=Share(hits=int(recalled.sum()), rows=len(right)),
    )
