"""The version of this distribution, which all of the project's have."""

from importlib.metadata import version

__version__ = version("vitriton")
