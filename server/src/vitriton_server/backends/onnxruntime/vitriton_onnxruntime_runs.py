"""What a batch becomes: runs of a graph, and answers out of them. It imports only the standard library and numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
Run = Callable[[list[str], Arrays], list[Array]]


def run_batch(
    run: Run, feeds: Sequence[Arrays], wanted: Sequence[Sequence[str]], batched: bool
) -> list[Arrays | Exception]:
    """One answer or error for each request, with as few runs as possible.

    Args:
        run: (output names, name → array) → the arrays of those outputs.
        feeds: for each request its inputs, (B_i, …) if `batched`.
        wanted: for each request the names of the outputs that it asked for.
        batched: whether the first axis is the batch, along which requests are joined.

    Returns:
        For each request its outputs, views of the joint result, (B_i, …) if `batched`; or the error that it alone made.
    """
    if batched and len(feeds) > 1 and _joinable(feeds):
        try:
            return _run_joint(run, feeds, wanted)
        except Exception:  # whose fault it is shows when each request runs alone, below
            pass
    answers: list[Arrays | Exception] = []
    for feed, names in zip(feeds, wanted, strict=True):
        try:
            answers.append(dict(zip(names, run(list(names), feed), strict=True)))
        except Exception as exc:  # whatever a request makes of the graph is that request's answer
            # with its traceback it would hold this frame, and the frame it: tensors until the garbage collector comes
            answers.append(exc.with_traceback(None))
    return answers


def sliced(run: Run, rows: int) -> Run:
    """The same run, some rows of the batch at a time; whole where an output turns out to have no row for each.

    For outputs whose other axes are fixed: where they depend on the batch, slices cannot be put together.
    """

    def run_slices(names: list[str], feed: Arrays) -> list[Array]:
        size = _size(feed)
        if size <= rows:
            return run(names, feed)
        parts = []
        for start in range(0, size, rows):
            part = slice(start, min(start + rows, size))
            parts.append(run(names, _rows(feed, part)))
            if not _has_rows(parts[-1], part):
                return run(names, feed)
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    return run_slices


def side_by_side(alone: Run, together: Run, cores: int, rows: int) -> Run:
    """A run in which each core computes rows of its own; what is left over, fewer than cores, they compute together.

    A core that computes alone waits for no other between one operator and the next.

    Args:
        alone: a run on one core; is called from several threads.
        together: the same run on all cores.
        cores: how many.
        rows: that a core computes at a time.

    Returns:
        For outputs whose other axes are fixed, as of `sliced`.
    """
    threads = ThreadPoolExecutor(cores)

    def run(names: list[str], feed: Arrays) -> list[Array]:
        size = _size(feed)
        if size < cores:
            return together(names, feed)
        slices = even_slices(size, cores, rows)
        parts = list(threads.map(lambda part: alone(names, _rows(feed, part)), slices))
        if (done := slices[-1].stop) < size:
            slices.append(slice(done, size))
            parts.append(together(names, _rows(feed, slices[-1])))
        if not all(_has_rows(arrays, part) for arrays, part in zip(parts, slices, strict=True)):
            return together(names, feed)
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    return run


def even_slices(size: int, cores: int, rows: int) -> list[slice]:
    """Slices of a batch, of so many rows at most, with as many rows for each core; what is left over is in none."""
    each = size // cores
    steps = [min(rows, each - start) for start in range(0, each, rows)]
    slices: list[slice] = []
    start = 0
    for step in steps:
        slices += [slice(begin, begin + step) for begin in range(start, start + cores * step, step)]
        start += cores * step
    return slices


def _size(feed: Arrays) -> int:
    return max((len(array) for array in feed.values()), default=0)


def _rows(feed: Arrays, part: slice) -> Arrays:
    return {name: array[part] for name, array in feed.items()}


def _has_rows(arrays: Iterable[Array], part: slice) -> bool:
    return all(array.shape[:1] == (part.stop - part.start,) for array in arrays)


def _joinable(feeds: Sequence[Arrays]) -> bool:
    first = {name: array.shape[1:] for name, array in feeds[0].items()}
    return all({name: array.shape[1:] for name, array in feed.items()} == first for feed in feeds[1:])


def _run_joint(run: Run, feeds: Sequence[Arrays], wanted: Sequence[Sequence[str]]) -> list[Arrays | Exception]:
    names = list(dict.fromkeys(name for names in wanted for name in names))
    joint = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    sizes = [len(next(iter(feed.values()))) for feed in feeds]
    results = dict(zip(names, run(names, joint), strict=True))
    for name, array in results.items():
        if len(array) != sum(sizes):
            raise ValueError(f"output {name!r} has {len(array)} rows for a batch of {sum(sizes)}")
    answers: list[Arrays | Exception] = []
    start = 0
    for size, asked in zip(sizes, wanted, strict=True):
        answers.append({name: results[name][start : start + size] for name in asked})
        start += size
    return answers
