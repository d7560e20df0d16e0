"""Tars of images, as webdataset writes them: found by patterns, and read by where their members are.

A tar has no table of contents. Its headers are read once, when a job is planned, and the rows name the bytes:
`s3://bucket/000.tar#bytes=1536-30211`. So a worker reads a member like any other object, in any order.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import SUFFIXES
from vitriton._errors import InvalidOption, Unreadable
from vitriton._storage import Span, Storage, read_ahead

_MEMBER = re.compile(r"(?P<tar>.*)#bytes=(?P<first>\d+)-(?P<last>\d+)", re.DOTALL)
_RANGE = re.compile(r"\{(?P<first>\d+)\.\.(?P<last>\d+)\}")  # as in webdataset's URLs
_COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz)$", re.IGNORECASE)
# A request to a store gets the headers of several small members; of large ones, it should not get much of each.
_READ_BYTES = 128 * 1024
_AT_A_TIME = 16  # tars


class Member(NamedTuple):
    """An image in a tar.

    Attributes:
        uri: the URI of the tar, and the place of the image in it.
        id: the URI of the tar, and the name of the image in it.
    """

    uri: str
    id: str


def is_tar(uri: str) -> bool:
    """Whether an argument names a tar, or tars by a pattern.

    Raises:
        InvalidOption: it names a compressed one.
    """
    if _COMPRESSED.search(uri):
        raise InvalidOption("", f"{uri} is compressed, so that no part of it can be read alone; decompress it")
    return uri.lower().endswith(".tar")


def find_tars(storage: Storage, patterns: Iterable[str]) -> Iterator[str]:
    """Yields the URIs of the tars that arguments name: {000..999} stands for numbers, and * and ? for parts of a name.

    Raises:
        InvalidOption: nothing fits a pattern.
        OSError: a store failed.
    """
    for uri in (uri for pattern in patterns for uri in _numbered(pattern)):
        folder, _, name = uri.rpartition("/")
        if not any(sign in name for sign in "*?"):
            yield uri
            continue
        fits, infos = name.replace("[", "[[]"), storage.place(folder).entries(missing_ok=True)
        names = sorted(info.base_name for info in infos if info.is_file and fnmatchcase(info.base_name, fits))
        if not names:
            raise InvalidOption("", f"no file fits {uri}")
        yield from (f"{folder}/{name}" for name in names)


def _numbered(pattern: str) -> Iterator[str]:
    """Yields what a pattern with ranges of numbers stands for."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    digits = len(found["first"])
    for number in range(int(found["first"]), int(found["last"]) + 1):
        yield from _numbered(f"{pattern[: found.start()]}{number:0{digits}}{pattern[found.end() :]}")


def list_members(storage: Storage, uris: Sequence[str]) -> Iterator[Member]:
    """Yields the images in tars, in order.

    Raises:
        InvalidOption: a file is no tar, or one that is cut short.
        CommandFailed: a store failed.
    """
    for members in read_ahead(uris, lambda uri: _list(storage, uri), threads=_AT_A_TIME, ahead=_AT_A_TIME):
        yield from members


def read_member(storage: Storage, uri: str, max_bytes: int) -> bytes | Unreadable:
    """Reads an image by the URI of `Member`; see `Storage.read`."""
    found = _MEMBER.fullmatch(uri)
    assert found is not None
    first = int(found["first"])
    return storage.read(found["tar"], max_bytes, Span(first, int(found["last"]) + 1 - first))


def _list(storage: Storage, uri: str) -> list[Member]:
    """The images in a tar. If two have the same name, the later one counts, as where a tar is unpacked."""
    files, path = storage.place(uri)
    spans: dict[str, Span] = {}
    try:
        with io.BufferedReader(files.open_input_file(path), _READ_BYTES) as file:
            for member in _members(file):
                name = PurePosixPath(member.name)
                if name.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts):
                    if member.issparse():
                        raise tarfile.ReadError(f"{name} is a sparse file")
                    spans[str(name).lstrip("/")] = Span(member.offset_data, member.size)
    except (tarfile.TarError, ValueError) as exc:
        raise InvalidOption("", f"{uri} cannot be read as a tar: {exc}; leave it out, or write it anew") from exc
    except OSError as exc:
        raise CommandFailed(f"{uri} cannot be read: {' '.join(str(exc).split())}") from exc
    return [Member(f"{uri}#bytes={first}-{first + size - 1}", f"{uri}/{name}") for name, (first, size) in spans.items()]


def _members(file: io.BufferedReader) -> Iterator[tarfile.TarInfo]:
    """Yields the files in a tar, from its headers alone."""
    # Names that are not UTF-8 would be no text for Arrow.
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as tar:
        end = 0
        while (member := tar.next()) is not None:
            if tar.offset <= end:
                raise tarfile.ReadError(f"its headers lead back from byte {end}")
            end = tar.offset
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all; webdataset clears it, too
            if member.isreg():
                yield member
        # tarfile takes a damaged header for the end.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"there is a damaged header at byte {tar.offset}")
