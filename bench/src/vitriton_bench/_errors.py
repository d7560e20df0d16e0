"""What a measurement can fail of.

BenchError is a `vitriton.VitritonError`, where the whole tree is drawn (`vitriton._errors`).
"""

from __future__ import annotations

from vitriton._errors import VitritonError


class BenchError(VitritonError):
    """A measurement cannot be made; the text says what is missing and what to do. The caller's or the machine's."""
