"""The images of a verification: the built-in corpus, or a folder of the user's own, read one at a time."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from vitriton import Options
from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import find_inputs

from vitriton_export._errors import ExportError
from vitriton_export._parity.corpus import corpus

_MAX_BYTES = Options().max_image_bytes  # what a client sends


class NamedImages(Protocol):
    """Named encoded files."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
        """Name and content of each; what cannot be read is told to `refuse`, with the reason."""


class Corpus:
    """The images of the export's gate.

    Args:
        large: with JPEGs of many megapixels.
    """

    def __init__(self, *, large: bool) -> None:
        self._files = corpus(large=large)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
        """See `NamedImages`."""
        yield from self._files.items()


class Folder:
    """The images in a folder and the folders in it, sorted by name.

    Args:
        folder: where they are.
        limit: how many at most, evenly spread over all of them; None is all.

    Raises:
        ExportError: there are none, or the folder cannot be read.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        if not folder.is_dir():
            raise ExportError(f"--images {folder} is no folder; name one that holds images")
        try:
            paths = find_inputs([str(folder)], None, recursive=True).sources
        except CommandFailed as exc:
            raise ExportError(str(exc)) from exc
        count = len(paths) if limit is None else min(limit, len(paths))
        self._paths = [Path(paths[index * len(paths) // count]) for index in range(count)]
        self._folder = folder

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
        """See `NamedImages`."""
        for path in self._paths:
            name = path.relative_to(self._folder).as_posix()
            try:
                found = path.stat()
                if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
                    refuse(name, "is no file")
                elif found.st_size > _MAX_BYTES:
                    refuse(name, f"{found.st_size} bytes are over the {_MAX_BYTES} that a client sends")
                else:
                    yield name, path.read_bytes()
            except OSError as exc:
                refuse(name, f"cannot be read: {exc.strerror or exc}")
