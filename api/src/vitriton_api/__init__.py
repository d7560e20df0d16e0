"""Answers OpenAI-style HTTP requests for embeddings with the models on a Triton server."""

from vitriton._version import __version__

__all__ = ["__version__"]
