"""The list of images that a command embeds, in order."""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from vitriton._console.failure import CommandFailed
from vitriton._console.paths import file_fault, folder_fault, missing
from vitriton._errors import InvalidOption
from vitriton._storage import Storage, is_remote

# The suffixes of images in a folder: the usual ones of the formats that the server decodes
# (`vitriton.preprocessing.DEFAULT_FORMATS`), and of HEIC, so that its files are reported and not skipped.
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("apng", "avif", "bmp", "gif", "heic", "heif", "j2k", "jfif", "jp2", "jpe"),
        *("jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)

# The suffixes of videos: the usual ones of the formats that `vitriton.video` reads.
VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3g2", "3gp", "asf", "avi", "dv", "f4v", "flv", "h264", "h265", "hevc", "ivf", "m2ts", "m2v", "m4v", "mj2"),
        *("mjpeg", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "nut", "ogv", "qt", "rm", "ts", "vob", "webm"),
        *("wmv", "wtv", "y4m"),
    )
)

_URL = re.compile(r"(https?://|data:)", re.IGNORECASE)
_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h)?")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_SUFFIXES = 5  # suffixes named in a message


class PathList(NamedTuple):
    """A list of images.

    Attributes:
        name: the name of the list in messages.
        paths: the paths and URLs.
        ids: the id of each, by which the outputs identify it; None if that is the path or the URL.
    """

    name: str
    paths: list[str]
    ids: list[str] | None = None


@dataclass
class Inputs:
    """The images of a run, and the videos if it takes them.

    Attributes:
        sources: the paths and URLs, in order.
        ids: the id of each, by which the outputs identify it; None if that is the path or the URL.
        passed_over: the number of files that were left out, by suffix: those in folders without the suffix of an image,
            and videos.
    """

    sources: list[str] = field(default_factory=list)
    ids: list[str] | None = None
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def names(self) -> list[str]:
        """The names in the outputs."""
        return self.sources if self.ids is None else self.ids

    def sha256(self) -> str:
        """The hash of the list. It includes the current folder if there are relative paths, which depend on it."""
        digest = hashlib.sha256()
        if any(not (_URL.match(source) or os.path.isabs(source)) for source in self.sources):  # noqa: PTH117 - a million
            digest.update(os.fsencode(Path.cwd()) + b"\0")
        for text in (*self.sources, *(self.ids or ())):
            digest.update(os.fsencode(text) + b"\0")
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

    def describe_videos(self) -> str:
        """How to embed the videos that were passed over; empty if there are none."""
        return "; frames of videos are embedded with --every 1s" if VIDEO_SUFFIXES & self.passed_over.keys() else ""

    def _take(self, source: str, identity: str, *, videos: bool) -> None:
        """Takes a path or a URL that was named, unless it is a video and videos are not taken."""
        if is_video(source) and not videos:
            self.passed_over[_suffix(source)] += 1
            return
        self.sources.append(source)
        if self.ids is not None:
            self.ids.append(identity)

    def take_remote(self, storage: Storage, uri: str, *, recursive: bool) -> None:
        """Takes an image of a store, or the images of a folder there.

        Raises:
            InvalidOption: there is nothing, or the store cannot be opened.
            CommandFailed: the store failed.
        """
        try:
            kind = storage.kind(uri)
            if kind == "folder":
                count = self.passed_over.update
                self.sources += storage.find(
                    uri, SUFFIXES, recursive=recursive, passed_over=lambda suffix: count([suffix])
                )
        except OSError as exc:
            raise CommandFailed(f"{uri} cannot be read: {' '.join(str(exc).split())}") from exc
        if kind is None:
            raise InvalidOption("", f"{uri} does not exist")
        if kind == "file":
            self._take(uri, uri, videos=False)


def is_video(source: str) -> bool:
    """Whether a path or a URL is named like a video."""
    return _suffix(source) in VIDEO_SUFFIXES


def read_every(text: str) -> float:
    """The time of the option `every` between two frames of a video, in seconds.

    Raises:
        InvalidOption: it is no time above 0.
    """
    found = _TIME.fullmatch(text)
    seconds = float(found["number"]) * _UNITS_S[found["unit"] or "s"] if found else 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InvalidOption("every", f"is {text!r}; give a time above 0, such as 1s, 500ms or 2m")
    return seconds


def find_inputs(
    arguments: Sequence[str],
    list_file: str | PathList | None,
    *,
    recursive: bool,
    videos: bool = False,
    may_be_empty: bool = False,
    storage: Storage | None = None,
) -> Inputs:
    """Finds the images that the command line names: its arguments in order, then the lines of the list.

    Args:
        arguments: the folders (their images, sorted), files and URLs. Duplicates are embedded twice.
        list_file: the list, or its path (see `read_lines`); None if there is none.
        recursive: whether to search subfolders; hidden ones and links to folders are never searched.
        videos: whether to take videos, too, by their suffixes.
        may_be_empty: whether it is no error if there is no image.
        storage: the stores in which URIs such as s3://bucket/folder are looked for; None: such a URI is a path.

    Raises:
        InvalidOption: an argument does not exist, it cannot be read, or there is no image.
        CommandFailed: a subfolder cannot be read.
    """
    inputs = Inputs()
    suffixes = SUFFIXES | VIDEO_SUFFIXES if videos else SUFFIXES
    for argument in arguments:
        if _URL.match(argument):
            inputs._take(argument, argument, videos=videos)
        elif storage is not None and is_remote(argument):
            inputs.take_remote(storage, argument, recursive=recursive)
        elif Path(argument).is_dir():
            if (fault := folder_fault(Path(argument))) is not None:
                raise InvalidOption("", fault)
            inputs.sources += _images_in(argument, recursive, suffixes, inputs.passed_over)
        elif os.path.lexists(argument):  # a broken link is an image that cannot be read
            inputs._take(argument, argument, videos=videos)
        else:
            raise InvalidOption("", missing(argument))
    listed = read_lines(list_file) if isinstance(list_file, str) else list_file
    if listed is not None:
        if listed.ids is not None:
            inputs.ids = [*inputs.sources]
        for source, identity in zip(listed.paths, listed.ids or listed.paths, strict=True):
            inputs._take(source, identity, videos=videos)
    if not (inputs.sources or may_be_empty):
        where = [*arguments, *([listed.name] if listed is not None else [])]
        passed_over = inputs.describe_passed_over() + inputs.describe_videos()
        holds = "holds" if len(where) == 1 else "hold"
        raise InvalidOption("", f"{', '.join(where)} {holds} no image" + (f"; {passed_over}" if passed_over else ""))
    return inputs


def _images_in(folder: str, recursive: bool, suffixes: Set[str], passed_over: Counter[str]) -> Iterator[str]:
    """The paths of files with these suffixes: each folder's files before its subfolders, both sorted by name."""

    def cannot_read(error: OSError) -> None:
        raise CommandFailed(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=cannot_read):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if suffix in suffixes and not name.startswith("."):
                yield os.path.join(parent, name)  # noqa: PTH118 - a million of them
            elif not name.startswith("."):
                passed_over[suffix] += 1


def _suffix(source: str) -> str:
    """The suffix of a path, or of the path of a URL, in lower case."""
    if not _URL.match(source):
        return Path(source).suffix.lower()
    try:
        return Path(urlsplit(source).path).suffix.lower() if source[:5].lower() != "data:" else ""
    except ValueError:  # no URL after all, as its reading will tell
        return ""


def read_lines(list_file: str) -> PathList:
    """Reads a list with a path or URL on each line, as it is; blank lines are left out.

    Args:
        list_file: the path of the list; `-`: standard input.

    Raises:
        InvalidOption: the list does not exist.
        CommandFailed: it cannot be read.
    """
    if list_file != "-" and (fault := file_fault(Path(list_file))) is not None:
        raise InvalidOption("list_file", fault)
    try:
        if list_file == "-":
            return PathList(list_file, list(_lines(sys.stdin.buffer)))
        with Path(list_file).open("rb") as file:
            return PathList(list_file, list(_lines(file)))
    except OSError as exc:
        raise CommandFailed(f"the list {list_file} cannot be read: {exc.strerror or exc}") from exc


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file):
        content = (line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).rstrip(b"\r\n")
        if content.strip():
            yield os.fsdecode(content)
