"""Embeds buckets of images and tables of texts on a Ray cluster: `vitriton embed --engine ray`."""

from vitriton._version import __version__

__all__ = ["__version__"]
