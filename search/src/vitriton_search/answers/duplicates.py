"""Near-duplicates: groups of rows whose vectors are nearly the same, and how many pairs there are by similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vitriton_search.answers.documents import hit_document
from vitriton_search.answers.vectors import Indices, Vectors, vectors_of
from vitriton_search.stores.store import Floats, Hit, Store
from vitriton_search.stores.where import Where

EXACT_ROWS = 200_000  # up to here, all pairs are compared; above, each row with the nearest that the index finds
NEIGHBORS = 32  # of each row, where the index is asked

_LEAST = 0.80  # the similarity at which the curve begins
_STEP = 0.01  # of the curve
_BLOCK = 2048  # rows; the similarities of a block with another are 16 MB
_ASKED = 256  # rows for which the index is asked at a time
_IDS = 1000  # rows that are read at a time
_ROUNDING = np.float32(1e-6)  # the cosine of a vector with itself may be less than 1 by so much


class Bar(NamedTuple):
    """One bar of the curve.

    Attributes:
        low: the least similarity.
        high: the similarity at which the next bar begins.
        pairs: the number of pairs.
    """

    low: float
    high: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The near-duplicates of a store.

    Attributes:
        threshold: the least cosine of a pair of duplicates.
        rows: the number of rows that were compared.
        left_out: the number of rows with an error, which have no vector.
        is_exact: whether all pairs were compared; if not, the numbers of the curve are lower bounds.
        curve: the number of pairs by their cosine.
        groups: the groups, the largest first. In each, the first is the one with the most pixels, then bytes; the score
            of the others is their cosine with the first, which may be below the threshold where others are between.
    """

    threshold: float
    rows: int
    left_out: int
    is_exact: bool
    curve: Sequence[Bar]
    groups: Sequence[Sequence[Hit]]

    def document(self) -> dict[str, Any]:
        """The duplicates as JSON takes them."""
        return {
            "threshold": self.threshold,
            "rows": self.rows,
            "left_out": self.left_out,
            "exact": self.is_exact,
            "curve": [bar._asdict() for bar in self.curve],
            "groups": [[hit_document(hit) for hit in group] for group in self.groups],
        }


class _Pairs(NamedTuple):
    """Pairs of rows, each once, of which at least the similarity is that of the curve's beginning."""

    left: Indices
    right: Indices
    scores: Floats


def find_duplicates(
    store: Store,
    threshold: float,
    where: Where | None = None,
    *,
    exact: bool | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> Duplicates:
    """Finds groups of near-duplicates.

    Two rows are in one group if a chain of pairs joins them, each with a cosine of the threshold or more. Frames of one
    video are no duplicates of each other. The memory does not depend on the number of pairs: the vectors are in a
    temporary file, and are compared in blocks.

    Args:
        store: the store.
        threshold: the least cosine of a pair, above 0 and at most 1.
        where: the condition that the rows meet; None for all rows.
        exact: whether all pairs are compared, instead of each row with those that the approximate index finds. None:
            where there is no index, or where there are at most `EXACT_ROWS` rows.
        advance: a function that is told how many more rows have been compared.
    """
    edges = _edges(min(_LEAST, threshold))
    counts = np.zeros(len(edges) - 1, np.int64)
    with vectors_of(store, where) as vectors:
        is_exact = exact if exact is not None else not store.has_index or len(vectors) <= EXACT_ROWS
        least = float(edges[0])
        found = _all_pairs(vectors, least, advance) if is_exact else _near(store, vectors, where, least, advance)
        sets = Sets(len(vectors))
        for pairs in found:
            counts += np.histogram(np.minimum(pairs.scores, 1), edges)[0]
            joined = pairs.scores >= np.float32(threshold) - _ROUNDING
            sets.join(pairs.left[joined], pairs.right[joined])
        groups = list(_groups(store, vectors, sets.groups()))
    return Duplicates(
        threshold=threshold,
        rows=len(vectors),
        left_out=vectors.left_out,
        is_exact=is_exact,
        curve=[
            Bar(round(float(edges[n]), 2), round(float(edges[n + 1]), 2), int(counts[n])) for n in range(len(counts))
        ],
        groups=sorted(groups, key=lambda group: (-len(group), group[0].id)),
    )


def _edges(least: float) -> NDArray[np.float64]:
    """The borders of the curve's bars, from a whole step at or below a similarity to 1."""
    steps = round(1 / _STEP)
    return np.arange(int(np.floor(round(least * steps, 6))), steps + 1) / steps


def _all_pairs(vectors: Vectors, least: float, advance: Callable[[int], None]) -> Iterator[_Pairs]:
    unit, numbers = vectors.unit, vectors.source_numbers
    for start in range(0, len(vectors), _BLOCK):
        block = np.array(unit[start : start + _BLOCK])
        for other in range(start, len(vectors), _BLOCK):
            scores = block @ unit[other : other + _BLOCK].T
            left, right = np.nonzero(scores >= least)
            left, right, scores = left + start, right + other, scores[left, right]
            wanted = (left < right) & (numbers[left] != numbers[right])
            yield _Pairs(left[wanted], right[wanted], scores[wanted])
        advance(len(block))


def _near(
    store: Store, vectors: Vectors, where: Where | None, least: float, advance: Callable[[int], None]
) -> Iterator[_Pairs]:
    """The pairs of each row with those that the index finds.

    A pair that both find comes once, which the list of all that were found tells.
    """
    numbers = vectors.source_numbers
    listed = np.full((len(vectors), NEIGHBORS + 1), -1, np.int32)
    places = {id: place for place, id in enumerate(vectors.ids.to_pylist())}
    for start in range(0, len(vectors), _ASKED):
        block = np.array(vectors.unit[start : start + _ASKED])
        hits = store.search(block, NEIGHBORS + 1, where)
        own = np.repeat(np.arange(start, start + len(block)), [len(found) for found in hits])
        flat = [hit for found in hits for hit in found]
        other = np.array([places.get(hit.id, -1) for hit in flat], np.int64)
        scores = np.array([hit.score for hit in flat], np.float32)
        rank = np.concatenate([np.arange(len(found)) for found in hits])
        listed[own, rank] = other
        known = (other >= 0) & (scores >= least)
        own, other, scores = own[known], other[known], scores[known]
        wanted = (numbers[own] != numbers[other]) & ((own < other) | (listed[other] != own[:, None]).all(axis=1))
        yield _Pairs(own[wanted], other[wanted], scores[wanted])
        advance(len(block))


class Sets:
    """Disjoint sets of numbers, joined many at a time (union-find).

    Args:
        size: the numbers are 0 to size - 1, each at first alone in its set.
    """

    def __init__(self, size: int) -> None:
        self._parents = np.arange(size)

    def join(self, left: Indices, right: Indices) -> None:
        """Joins the sets of each pair of numbers."""
        while len(left):
            left, right = self.roots(left), self.roots(right)
            apart = left != right
            left, right = left[apart], right[apart]
            # The larger root goes below the smaller: no circle can come of it, and the next round sees the rest.
            np.minimum.at(self._parents, np.maximum(left, right), np.minimum(left, right))

    def roots(self, numbers: Indices) -> Indices:
        """The least number of each one's set."""
        roots = self._parents[numbers]
        while True:
            above = self._parents[roots]
            if (above == roots).all():
                self._parents[numbers] = roots
                return roots
            roots = above

    def groups(self) -> list[Indices]:
        """The sets of more than one number."""
        roots = self.roots(np.arange(len(self._parents)))
        order = np.argsort(roots, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)
        return [part for part in parts if len(part) > 1]


def _groups(store: Store, vectors: Vectors, groups: Sequence[Indices]) -> Iterator[list[Hit]]:
    """The rows of each group, the one to keep first, then by their likeness to it."""
    rows: dict[str, dict[str, Any]] = {}
    ids = [id for members in groups for id in vectors.ids.take(pa.array(members)).to_pylist()]
    for start in range(0, len(ids), _IDS):
        table = store.rows(ids[start : start + _IDS]).drop_columns(["embedding"])
        rows |= {row["id"]: row for row in table.to_pylist()}
    for members in groups:
        places = {id: place for place in members.tolist() if (id := vectors.ids[place].as_py()) in rows}
        if len(places) < 2:  # the others are gone since they were compared
            continue
        first = min(places, key=lambda id: _worth(rows[id]))
        scores = vectors.unit[list(places.values())] @ vectors.unit[places[first]]
        hits = [
            Hit(id=id, score=min(1.0, float(score)), row=rows[id]) for id, score in zip(places, scores, strict=True)
        ]
        yield sorted(hits, key=lambda hit: (hit.id != first, -hit.score, hit.id))


def _worth(row: Mapping[str, Any]) -> tuple[int, int, str]:
    """The order in which the rows of a group are kept: the one with the most pixels first, then the most bytes."""
    return -(row["width"] or 0) * (row["height"] or 0), -(row["bytes"] or 0), row["id"]
