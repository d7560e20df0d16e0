"""Turns a batch of requests into runs of a graph, and their outputs into results. Needs nothing but numpy."""

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
    """Computes one result or error for each request, with as few runs as possible.

    Args:
        run: the function that runs the graph: (output names, name → array) → the arrays of those outputs.
        feeds: the inputs of each request, (B_i, …) if `batched`.
        wanted: the names of the outputs that each request asks for.
        batched: whether the first axis is the batch, along which requests are joined.

    Returns:
        The outputs of each request, views of the joint result, (B_i, …) if `batched`; or the request's own error.
    """
    if batched and len(feeds) > 1 and _joinable(feeds):
        try:
            return _run_joint(run, feeds, wanted)
        except Exception:  # the runs of single requests below show whose fault it is
            pass
    answers: list[Arrays | Exception] = []
    for feed, names in zip(feeds, wanted, strict=True):
        try:
            answers.append(dict(zip(names, run(list(names), feed), strict=True)))
        except Exception as exc:  # any error of the graph is the request's result
            # its traceback and this frame would refer to each other, and keep tensors until the garbage collector runs
            answers.append(exc.with_traceback(None))
    return answers


def sliced(run: Run, rows: int, tokens: int | None = None) -> Run:
    """Wraps a run to compute some rows of the batch at a time; whole if an output does not have a row for each.

    Only for outputs whose other axes are the same for all slices: if they depend on the batch, slices cannot be joined.

    Args:
        run: the run.
        rows: the largest number of rows at a time.
        tokens: the number of tokens at a time, in place of `rows`, for inputs of token ids, (B, T); at least one row.
    """

    def run_slices(names: list[str], feed: Arrays) -> list[Array]:
        size, step = _size(feed), _step(feed, rows, tokens)
        if size <= step:
            return run(names, feed)
        parts = []
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            parts.append(run(names, _rows(feed, part)))
            if not _has_rows(parts[-1], part):
                return run(names, feed)
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    return run_slices


def side_by_side(alone: Run, together: Run, cores: int, rows: int, tokens: int | None = None) -> Run:
    """Wraps two runs so that each core computes rows of its own; together they compute the rows left over.

    A core that computes alone does not wait for others between operators.

    Args:
        alone: the run on one core, which is called from several threads.
        together: the same run on all cores.
        cores: the number of cores.
        rows: the number of rows that a core computes at a time.
        tokens: the number of tokens that a core computes at a time, as for `sliced`.

    Returns:
        A run for the same outputs as that of `sliced`.
    """
    threads = ThreadPoolExecutor(cores)

    def run(names: list[str], feed: Arrays) -> list[Array]:
        size = _size(feed)
        if size < cores:
            return together(names, feed)
        slices = even_slices(size, cores, _step(feed, rows, tokens))
        parts = list(threads.map(lambda part: alone(names, _rows(feed, part)), slices))
        if (done := slices[-1].stop) < size:
            slices.append(slice(done, size))
            parts.append(together(names, _rows(feed, slices[-1])))
        if not all(_has_rows(arrays, part) for arrays, part in zip(parts, slices, strict=True)):
            return together(names, feed)
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    return run


def even_slices(size: int, cores: int, rows: int) -> list[slice]:
    """Returns slices of a batch with at most `rows` rows, equally many for each core; remaining rows are left out."""
    each = size // cores
    steps = [min(rows, each - start) for start in range(0, each, rows)]
    slices: list[slice] = []
    start = 0
    for step in steps:
        slices += [slice(begin, begin + step) for begin in range(start, start + cores * step, step)]
        start += cores * step
    return slices


def _step(feed: Arrays, rows: int, tokens: int | None) -> int:
    return rows if tokens is None else max(1, tokens // max(1, next(iter(feed.values())).shape[1]))


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
