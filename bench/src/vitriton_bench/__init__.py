"""Measures a served model under load."""

from vitriton._version import __version__

__all__ = ["__version__"]
