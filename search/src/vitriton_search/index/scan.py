"""What is there: the images that a command line names, with the size and time of each file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vitriton_search.sources import is_url, path_of, source_of

# years 1 and 9999; a damaged disk may say anything
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


class Found(NamedTuple):
    """An image that is there.

    Attributes:
        id: its name in the store.
        size: the size of its file, in bytes; None for a URL, and for a file that cannot be looked at.
        modified_us: the time of the file's last change, in microseconds since 1970; None as with `size`.
    """

    id: str
    size: int | None = None
    modified_us: int | None = None

    @property
    def path(self) -> str | None:
        """The path of the file; None for a URL."""
        return path_of(self.id)


def look_at(sources: Iterable[str]) -> list[Found]:
    """Looks at images, each of them once.

    Args:
        sources: the paths and URLs, as a user gave them.
    """
    found: dict[str, Found] = {}
    for source in sources:
        seen = _look_at(source)
        found.setdefault(seen.id, seen)
    return list(found.values())


def modified_us(time_ns: int) -> int:
    """The time of a file's last change, in microseconds since 1970, within the years that a date can have."""
    return min(max(time_ns // 1000, _FIRST_US), _LAST_US)


def folders_among(arguments: Sequence[str]) -> tuple[str, ...]:
    """The names of the folders among the arguments of a command line."""
    return tuple(source_of(text) for text in arguments if not is_url(text) and os.path.isdir(text))  # noqa: PTH112 - it raises nothing


def inside(folders: Sequence[str]) -> Callable[[str], bool]:
    """Returns a function that says whether a file lies in one of the folders, or below it.

    Args:
        folders: the names of the folders, as a store has those of files.
    """
    starts = tuple(f"{(path_of(folder) or '').rstrip('/')}/" for folder in folders)

    def is_inside(source: str) -> bool:
        path = path_of(source)
        return path is not None and path.startswith(starts)

    return is_inside


def is_gone(source: str) -> bool:
    """Whether the file of a source does not exist. One that cannot be looked at is not taken for gone."""
    path = path_of(source)
    if path is None:
        return False
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _look_at(source: str) -> Found:
    if is_url(source):
        return Found(source)
    try:
        stat = os.stat(source)  # noqa: PTH116 - a million of them
    except (OSError, ValueError):  # reading it says why
        return Found(source_of(source))
    return Found(source_of(source), stat.st_size, modified_us(stat.st_mtime_ns))
