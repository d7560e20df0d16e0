"""Measures a served model beside bare ONNX Runtime on the same graph."""

from vitriton._version import __version__

__all__ = ["__version__"]
