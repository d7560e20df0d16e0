"""The map of a store: its vectors in two dimensions, by principal components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vitriton_search.stores.store import Floats, Store
from vitriton_search.stores.where import Missing

MAX_POINTS = 100_000
_STEPS = 65_535  # a place on the map is two numbers from 0 to this
HAS_VECTOR = Missing("error")


@dataclass(frozen=True, kw_only=True)
class StoreMap:
    """Places of rows.

    Attributes:
        ids: the ids of the rows, N.
        points: their places, (N, 2) uint16; both axes have one scale.
        explained: the share of the vectors' variance along each axis, from 0 to 1.
        rows: the number of rows with a vector, of which N are on the map.
    """

    ids: list[str]
    points: NDArray[np.uint16]
    explained: tuple[float, float]
    rows: int


def make_map(store: Store, max_points: int = MAX_POINTS) -> StoreMap:
    """Projects the vectors of a store, scaled to length 1, on their first two principal components.

    Of a large store it takes every second row, every third, and so on. The store is read twice, in memory for one batch
    and for the covariance, (D, D).

    Args:
        store: the store.
        max_points: the most points of the map.
    """
    dimensions = store.space.dimensions
    step = max(1, -(-len(store) // max_points))
    count, rows, total, products = 0, 0, np.zeros(dimensions), np.zeros((dimensions, dimensions))
    for _, vectors, seen in _sampled(store, ["embedding"], step):
        count += len(vectors)
        rows += seen
        total += vectors.sum(axis=0, dtype=np.float64)
        products += vectors.T @ vectors
    if not count:
        return StoreMap(ids=[], points=np.zeros((0, 2), np.uint16), explained=(0.0, 0.0), rows=0)
    mean = total / count
    variances, axes = np.linalg.eigh(products / count - np.outer(mean, mean))
    axes = _two(axes[:, ::-1])
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # one of two mirrored maps, always the same
    whole = float(variances.sum()) or 1.0
    first, second = (max(0.0, float(each)) / whole for each in (*variances[::-1], 0.0)[:2])
    ids: list[str] = []
    places = []
    for batch, vectors, _ in _sampled(store, ["id", "embedding"], step):
        ids += batch.column("id").to_pylist()
        places.append((vectors - mean) @ axes)
    points = _scaled(np.concatenate(places))
    return StoreMap(ids=ids, points=points, explained=(first, second), rows=rows)


def _sampled(store: Store, columns: list[str], step: int) -> Iterator[tuple[pa.RecordBatch, Floats, int]]:
    """Every `step`-th row with a vector: the batch, its vectors of length 1, (n, D), and the rows it was taken from."""
    offset = 0
    for batch in store.scan(columns, HAS_VECTOR):
        taken = batch.take(pa.array(range(-offset % step, batch.num_rows, step), pa.int64()))
        offset += batch.num_rows
        flat = taken.column("embedding").flatten().to_numpy(zero_copy_only=False)
        vectors = flat.astype(np.float32, copy=False).reshape(taken.num_rows, store.space.dimensions)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        yield taken, vectors / np.maximum(lengths, np.finfo(np.float32).tiny), batch.num_rows


def _two(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first two axes; the second is of zeros where vectors have one dimension."""
    return np.pad(axes[:, :2], ((0, 0), (0, max(0, 2 - axes.shape[1]))))


def _scaled(places: NDArray[np.float64]) -> NDArray[np.uint16]:
    low, high = places.min(axis=0), places.max(axis=0)
    span = max(float((high - low).max()), float(np.finfo(np.float32).tiny))
    middle = (low + high) / 2
    points: NDArray[np.uint16] = np.rint(((places - middle) / span + 0.5) * _STEPS).astype(np.uint16)
    return points
