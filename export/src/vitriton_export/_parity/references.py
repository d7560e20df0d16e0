"""The inputs of the gate that an export keeps, so that a server can repeat the gate in small when it starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from vitriton._repository.names import ENSEMBLES, OUTPUT, PIXELS, Kind
from vitriton._repository.references import Expected, References

from vitriton_export._parity.compare import Batch, BatchResult
from vitriton_export._parity.gates import Gate

# Preferred inputs: photos, and texts of different words and letters. Others take their place where limits refuse them.
_PREFERRED = ("astronaut.jpg", "cat.jpg", "coffee.jpg", "sentence", "German", "numbers")
# One unpooled output: it shows what the graph computes, and each costs a server that starts another run of it.
_COUNT = {True: 3, False: 1}
_ROWS = 3  # the tokens of an unpooled output


def choose(
    kind: Kind,
    expected: Sequence[tuple[Batch, BatchResult]],
    demanded: Mapping[str, Gate],
    accepts: Callable[[bytes], bool],
) -> References | None:
    """Returns the references of an ensemble; None if there are none.

    Args:
        kind: the kind of the ensemble.
        expected: the inputs of the gate, with what the reference made of them.
        demanded: the demands of the gate, by stage.
        accepts: whether the export takes an input within its limits, and prepares it exactly as the reference does.
    """
    gate, pixels = demanded[OUTPUT[kind]], demanded.get(PIXELS)
    exact = pixels is not None and pixels.tolerance == 0
    pooled = ENSEMBLES[kind].pooled
    computed = (each for each in _inputs(expected) if OUTPUT[kind] in each[2])
    preferred = sorted(computed, key=lambda each: each[0] not in _PREFERRED)
    chosen = list(islice((each for each in preferred if accepts(each[1])), _COUNT[pooled]))
    if not chosen:
        return None
    return References(
        tolerance=gate.tolerance,
        min_cosine=gate.min_cosine,
        inputs=tuple(
            _reference(name, data, values[OUTPUT[kind]], values[PIXELS] if exact else None, pooled=pooled)
            for name, data, values in chosen
        ),
    )


def _inputs(expected: Sequence[tuple[Batch, BatchResult]]) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """The inputs that the reference took: the name, the bytes, and the arrays of each stage."""
    for batch, answers in expected:
        kept = [each for position, each in enumerate(batch) if position not in answers.refused]
        for position, (name, data) in enumerate(kept):
            yield name, data, {stage: arrays[position] for stage, arrays in answers.values.items()}


def _reference(name: str, data: bytes, output: Any, pixels: Any | None, *, pooled: bool) -> Expected:
    values = np.asarray(output, np.float32)
    rows = None if pooled else tuple(sorted({round(at) for at in np.linspace(0, len(values) - 1, _ROWS)}))
    digest = None if pixels is None else hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Expected(
        name=name, data=data, values=values if rows is None else values[list(rows)], rows=rows, pixels_sha256=digest
    )
