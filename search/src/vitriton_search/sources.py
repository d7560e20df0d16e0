"""How a store names what it holds: the path of a file, or a URL."""

from __future__ import annotations

import os
from urllib.parse import quote, unquote_to_bytes

_URLS = ("http://", "https://", "data:")
_FILE = "file://"


def is_url(text: str) -> bool:
    """Whether a text that a user gave names no file but a URL."""
    return text[:8].lower().startswith(_URLS)


def source_of(path: str) -> str:
    """The name of a file, the same from every working folder: its absolute path.

    A path that a store cannot hold, as it is not valid Unicode or has a null character, becomes a file:// URL.
    """
    # Only the file system knows where `..` leads after a link.
    leads_up = ".." in path.split("/") and "\0" not in path
    absolute = os.path.realpath(path) if leads_up else os.path.abspath(path)  # noqa: PTH100
    try:
        absolute.encode()
    except UnicodeEncodeError:
        can_be_stored = False
    else:
        can_be_stored = "\0" not in absolute
    return absolute if can_be_stored else _FILE + quote(os.fsencode(absolute))


def path_of(source: str) -> str | None:
    """The path of the file with a name; None if it is that of something else."""
    if source.startswith(_FILE):
        return os.fsdecode(unquote_to_bytes(source.removeprefix(_FILE)))
    return source if source.startswith("/") else None
