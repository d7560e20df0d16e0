"""The confidence interval of a median."""

from __future__ import annotations

import math
from collections.abc import Iterable


def confidence(values: Iterable[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median, whatever the distribution.

    It uses ranks: the number of values below the median is binomial, here in its normal approximation. For few values
    it is their whole range.
    """
    ordered = sorted(values)
    reach = 1.96 * math.sqrt(len(ordered)) / 2
    low = max(0, math.floor((len(ordered) - 1) / 2 - reach))
    return ordered[low], ordered[len(ordered) - 1 - low]
