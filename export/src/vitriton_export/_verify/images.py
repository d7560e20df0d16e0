"""The inputs of a verification: the built-in corpus, a folder of images, or a file of texts, read one at a time."""

from __future__ import annotations

import codecs
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from vitriton import Options
from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import find_inputs
from vitriton._console.paths import file_fault, folder_fault
from vitriton._errors import InvalidOption

from vitriton_export._errors import ExportError, OptionError

_MAX_BYTES = Options().max_image_bytes  # the most that a client sends


class NamedInputs(Protocol):
    """Encoded image files or texts, each with a name."""

    def __len__(self) -> int:
        """The number of inputs."""

    def read(self, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
        """Yields the name and the content of each; calls `refuse` with the name and the reason for unreadable ones."""


class Corpus:
    """The inputs of the export's gate.

    Args:
        files: the inputs, by name.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def read(self, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
        """See `NamedInputs`."""
        yield from self._files.items()


class Folder:
    """The images in a folder and its subfolders, sorted by name.

    Args:
        folder: the folder of the images.
        limit: the largest number of images, evenly spread over all of them; None: all.

    Attributes:
        passed_over: one line on the files that are not images, to their names; empty if there are none.

    Raises:
        OptionError: there is no such folder, or it has no images.
        ExportError: a subfolder cannot be read.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        if (fault := folder_fault(folder)) is not None:
            raise OptionError("images", fault)
        try:
            found = find_inputs([str(folder)], None, recursive=True)
        except InvalidOption as exc:
            raise OptionError("images", exc.wrong) from exc
        except CommandFailed as exc:
            raise ExportError(str(exc)) from exc
        paths, self.passed_over = found.sources, found.describe_passed_over()
        count = len(paths) if limit is None else min(limit, len(paths))
        self._paths = [Path(paths[index * len(paths) // count]) for index in range(count)]
        self._folder = folder

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
        """See `NamedInputs`."""
        for path in self._paths:
            name = path.relative_to(self._folder).as_posix()
            try:
                found = path.stat()
                if not stat.S_ISREG(found.st_mode):  # reading a pipe would block
                    refuse(name, "is not a file")
                elif found.st_size > _MAX_BYTES:
                    refuse(name, f"{found.st_size} bytes are over the {_MAX_BYTES} that a client sends")
                else:
                    yield name, path.read_bytes()
            except OSError as exc:
                refuse(name, f"cannot be read: {exc.strerror or exc}")


class TextLines:
    """The texts in a file, one on each line, as `vitriton embed --texts` reads them: an empty line is an empty text.

    Args:
        file: the file, in UTF-8, with lines that end with LF or CRLF; a line that is not UTF-8 is refused as the model
            refuses it.
        limit: the largest number of texts, evenly spread over all of them; None: all.

    Raises:
        OptionError: there is no such file, or it has no texts.
    """

    def __init__(self, file: Path, limit: int | None) -> None:
        if (fault := file_fault(file)) is not None:
            raise OptionError("texts", fault)
        try:
            data = file.read_bytes()
        except OSError as exc:
            raise OptionError("texts", f"{file} cannot be read: {exc.strerror or exc}") from exc
        if not data:
            raise OptionError("texts", f"{file} has no texts; give one on each line")
        lines = data.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n")
        count = len(lines) if limit is None else min(limit, len(lines))
        numbers = [index * len(lines) // count for index in range(count)]
        self._lines = [(number + 1, lines[number].removesuffix(b"\r")) for number in numbers]

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, refuse: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
        """See `NamedInputs`."""
        for number, line in self._lines:
            yield f"line {number}", line
