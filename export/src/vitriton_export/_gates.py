"""What an export must meet, by precision: how near it is to the reference, and how little its batch matters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitriton_export._ir import Array
from vitriton_export._options import Kind, Precision


@dataclass(frozen=True)
class Gate:
    """A bound on the worst image.

    Attributes:
        max_abs_error: the largest difference of two values; None for no bound.
        min_cosine: the least cosine similarity of two vectors; None for no bound.
        moved: whether the user has moved it.
    """

    max_abs_error: float | None = None
    min_cosine: float | None = None
    moved: bool = False

    def passes(self, max_abs_error: float, min_cosine: float) -> bool:
        """Whether an image with these figures is within the bounds; NaN is not."""
        return (self.max_abs_error is None or max_abs_error <= self.max_abs_error) and (
            self.min_cosine is None or min_cosine >= self.min_cosine
        )

    def __str__(self) -> str:
        """As people read it in the report and the manifest."""
        bounds = {"max abs error <= ": self.max_abs_error, "cosine >= ": self.min_cosine}
        if self.max_abs_error == 0:
            return "identical"
        text = " and ".join(f"{name}{bound:.6g}" for name, bound in bounds.items() if bound is not None)
        return f"{text} (moved by --min-cosine)" if self.moved else text


IDENTICAL = Gate(max_abs_error=0.0)
FP32_TOLERANCE = 1e-4  # × max(1, max|reference|)

_MIN_COSINE: dict[Precision, dict[Kind, float]] = {
    "fp16": {"pooled": 0.9999, "unpooled": 0.9999},
    "int8": {"pooled": 0.99, "unpooled": 0.98},
    "int8-fast": {"pooled": 0.99, "unpooled": 0.98},
}
# Of an image alone and the same one in a batch. One scale for a whole batch (int8-fast) makes every image depend on the
# others; a token can be moved as far as the quantisation itself moves it.
_MIN_COSINE_IN_BATCH: dict[Precision, dict[Kind, float]] = {"int8-fast": _MIN_COSINE["int8-fast"]}
_ALONE = 0.99999


def accuracy(precision: Precision, kind: Kind, target: Array, min_cosine: float | None = None) -> Gate:
    """The gate between an output and the reference.

    Args:
        precision: of the export.
        kind: of the output.
        target: the reference.
        min_cosine: the user's own bound, which takes the place of the precision's.
    """
    if min_cosine is not None:
        return Gate(min_cosine=min_cosine, moved=True)
    if precision == "fp32":
        return Gate(max_abs_error=FP32_TOLERANCE * max(1.0, float(np.abs(target).max())))
    return Gate(min_cosine=_MIN_COSINE[precision][kind])


def batch(precision: Precision, kind: Kind) -> Gate:
    """The gate between an image alone and the same image in a batch of others."""
    return Gate(min_cosine=_MIN_COSINE_IN_BATCH.get(precision, {}).get(kind, _ALONE))
