"""The list of images that a command embeds, in order."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitriton._console.failure import CommandFailed
from vitriton._console.paths import file_fault, folder_fault, missing
from vitriton._errors import InvalidOption

# The suffixes of images in a folder: the usual ones of the formats that the server decodes
# (`vitriton.preprocessing.DEFAULT_FORMATS`), and of HEIC, so that its files are reported and not skipped.
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("apng", "avif", "bmp", "gif", "heic", "heif", "j2k", "jfif", "jp2", "jpe"),
        *("jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)

_URL = re.compile(r"(https?://|data:)", re.IGNORECASE)
_MAX_SUFFIXES = 5  # suffixes named in a message


@dataclass
class Inputs:
    """The images of a run.

    Attributes:
        sources: the paths and URLs, in order.
        passed_over: the number of files in folders without an image's suffix, by suffix.
    """

    sources: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def sha256(self) -> str:
        """The hash of the list. It includes the current folder if there are relative paths, which depend on it."""
        digest = hashlib.sha256()
        if any(not (_URL.match(source) or os.path.isabs(source)) for source in self.sources):  # noqa: PTH117 - a million
            digest.update(os.fsencode(Path.cwd()) + b"\0")
        for source in self.sources:
            digest.update(os.fsencode(source) + b"\0")
        return digest.hexdigest()

    def describe_passed_over(self) -> str:
        """One line on the files that were passed over; empty if there are none."""
        if not self.passed_over:
            return ""
        named = ", ".join(
            f"{suffix or 'no suffix'}: {count}" for suffix, count in self.passed_over.most_common(_MAX_SUFFIXES)
        )
        more = ", ..." if len(self.passed_over) > _MAX_SUFFIXES else ""
        return f"skipped, because their names are not those of images: {named}{more}"


def find_inputs(arguments: Sequence[str], list_file: str | None, *, recursive: bool) -> Inputs:
    """Finds the images that the command line names: its arguments in order, then the lines of the list.

    Args:
        arguments: the folders (their images, sorted), files and URLs. Duplicates are embedded twice.
        list_file: the file with the paths and URLs of images, one a line; `-`: standard input.
        recursive: whether to search subfolders; hidden ones and links to folders are never searched.

    Raises:
        InvalidOption: an argument does not exist, it cannot be read, or there is no image.
        CommandFailed: a subfolder cannot be read.
    """
    inputs = Inputs()
    for argument in arguments:
        if _URL.match(argument):
            inputs.sources.append(argument)
        elif Path(argument).is_dir():
            if (fault := folder_fault(Path(argument))) is not None:
                raise InvalidOption("", fault)
            inputs.sources += _images_in(argument, recursive, inputs.passed_over)
        elif os.path.lexists(argument):  # a broken link is an image that cannot be read
            inputs.sources.append(argument)
        else:
            raise InvalidOption("", missing(argument))
    if list_file is not None:
        inputs.sources += _read_list(list_file)
    if not inputs.sources:
        where = [*arguments, *([list_file] if list_file is not None else [])]
        passed_over = inputs.describe_passed_over()
        holds = "holds" if len(where) == 1 else "hold"
        raise InvalidOption("", f"{', '.join(where)} {holds} no image" + (f"; {passed_over}" if passed_over else ""))
    return inputs


def _images_in(folder: str, recursive: bool, passed_over: Counter[str]) -> Iterator[str]:
    """The paths of images: each folder's files before its subfolders, both sorted by name."""

    def cannot_read(error: OSError) -> None:
        raise CommandFailed(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=cannot_read):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if suffix in SUFFIXES and not name.startswith("."):
                yield os.path.join(parent, name)  # noqa: PTH118 - a million of them
            elif not name.startswith("."):
                passed_over[suffix] += 1


def _read_list(list_file: str) -> list[str]:
    if list_file != "-" and (fault := file_fault(Path(list_file))) is not None:
        raise InvalidOption("list_file", fault)
    try:
        if list_file == "-":
            return list(_lines(sys.stdin.buffer))
        with Path(list_file).open("rb") as file:
            return list(_lines(file))
    except OSError as exc:
        raise CommandFailed(f"the list {list_file} cannot be read: {exc.strerror or exc}") from exc


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file):
        content = (line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).rstrip(b"\r\n")
        if content.strip():
            yield os.fsdecode(content)
