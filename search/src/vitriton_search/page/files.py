"""The files of a store's rows. No path comes from a request: a row is named by its id, and has its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vitriton_search.page.refusals import PageRefused
from vitriton_search.sources import path_of


def open_file(row: Mapping[str, Any]) -> BinaryIO:
    """Opens the file of a row.

    A link is followed within its own folder alone: what it leads to elsewhere was not meant to be shown.

    Raises:
        PageRefused: there is no such file, or it may not be shown.
    """
    named = path_of(row["source"])
    if named is None:
        raise PageRefused("it is at a URL, from which the page loads nothing", 415)
    path = Path(named)
    try:
        real, folder = (Path(os.path.realpath(each)) for each in (path, path.parent))
        if not real.is_relative_to(folder):
            raise PageRefused("it is a link that leads out of its folder", 403)
        # Not a link any more; and opening a pipe must not wait for who writes to it
        opened = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise PageRefused("the file is gone since it was indexed", 410) from exc
    except OSError as exc:
        raise unreadable(exc) from exc
    except ValueError as exc:  # a null character
        raise PageRefused("no file has this name", 410) from exc
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise PageRefused("it is not a file any more", 410)
    return os.fdopen(opened, "rb")


def unreadable(error: OSError) -> PageRefused:
    """The refusal for a file that cannot be read."""
    return PageRefused(f"the file cannot be read: {error.strerror}", 410)


def changed() -> PageRefused:
    """The refusal for a file that is not the one that was indexed."""
    return PageRefused("the file has changed since it was indexed; index again to see it", 409)
