"""What a measurement can fail of."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement cannot be made; the text says what is missing and what to do. The caller's or the machine's."""
