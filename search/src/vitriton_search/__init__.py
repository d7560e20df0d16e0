"""Searches images, videos and texts by their embeddings, on a vector store."""

from vitriton._version import __version__

__all__ = ["__version__"]
