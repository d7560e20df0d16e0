"""The errors of measurements.

BenchError           a measurement cannot be made (a `vitriton.VitritonError`: `vitriton._errors` draws the whole tree)
└─ UnusableOption    the caller's: an option has a value that cannot be used (an InvalidOption too)
"""

from __future__ import annotations

from vitriton._errors import InvalidOption, VitritonError


class BenchError(VitritonError):
    """A measurement failed, by the caller's or the machine's fault; the text says why and what to do."""


class UnusableOption(BenchError, InvalidOption):  # noqa: N818 - its bases say that it is an error
    """An option has a value that cannot be used: a malformed list, or a file that cannot be written."""
