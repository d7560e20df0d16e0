"""Files by their URIs, in object stores and elsewhere, through pyarrow."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import unquote

from vitriton._errors import InvalidOption, Unreadable, VitritonError

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")

# Two letters at least: `c:` is a drive of Windows. The client reads http(s) and data URIs itself.
_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://(?P<authority>[^/]*)(?P<path>.*)", re.IGNORECASE | re.DOTALL)
_WEB = frozenset({"http", "https"})
_OF_PYARROW = frozenset({"file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs"})  # fsspec has others
# What a store says of one object that others of it need not have: it fails every time, and only there.
_OF_ONE_FILE = ("ACCESS_DENIED", "INVALID_OBJECT_STATE")


def is_remote(source: str) -> bool:
    """Whether a source is a URI of a store, such as s3://bucket/key, and neither a path nor a URL of the web."""
    found = _URI.match(source)
    return found is not None and found["scheme"].lower() not in _WEB


class StoragePlace(NamedTuple):
    """A file or a folder in a file system of pyarrow.

    Attributes:
        files: the file system (pyarrow.fs.FileSystem).
        path: the path in it, without a slash at the end.
    """

    files: Any
    path: str

    def __truediv__(self, name: str) -> StoragePlace:
        return StoragePlace(self.files, f"{self.path}/{name}")

    def below(self, path: str) -> str:
        """The rest of the path of something in this folder, such as /sub/a.jpg."""
        return path.strip("/")[len(self.path.strip("/")) :]  # some libraries of fsspec add a slash in front

    def entries(self, *, recursive: bool = False, missing_ok: bool = False) -> list[Any]:
        """What is in this folder, as pyarrow's FileInfo.

        Args:
            recursive: whether to list what is in its subfolders, too.
            missing_ok: whether a folder that does not exist is an empty one.

        Raises:
            OSError: the store failed, or there is no such folder.
        """
        selector = _pyarrow_fs().FileSelector(self.path, recursive=recursive, allow_not_found=missing_ok)
        return list(self.files.get_file_info(selector))


class Span(NamedTuple):
    """A part of a file.

    Attributes:
        first: the offset of the first byte.
        size: the number of bytes.
    """

    first: int
    size: int


class Storage:
    """Opens stores once each, and reads from them. Safe to share between threads; a pickle of it connects again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, StoragePlace] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, ()

    def place(self, uri: str) -> StoragePlace:
        """Finds the file system of a URI, or of a path of this machine.

        Raises:
            InvalidOption: nothing that is installed reads such URIs, or the store refuses its name.
            VitritonError: pyarrow is not installed.
        """
        fs = _pyarrow_fs()
        found = _URI.match(uri)
        if found is None:
            return StoragePlace(fs.LocalFileSystem(), str(Path(uri).absolute()))
        scheme = found["scheme"].lower()
        path = unquote(found["path"]) if scheme == "file" else found["path"]  # keys of object stores are as they are
        root = f"{scheme}://{found['authority']}"
        with self._lock:
            if root not in self._known:
                self._known[root] = _connect(fs, root, scheme, found["authority"])
        base = self._known[root]
        return StoragePlace(base.files, f"{base.path.rstrip('/')}/{path.strip('/')}".rstrip("/"))

    def read(self, uri: str, max_bytes: int, span: Span | None = None) -> bytes | Unreadable:
        """Reads a file, or a part of it; returns the bytes, or why this one file has none.

        Args:
            uri: the URI, or a path of this machine.
            max_bytes: the size of the largest file, or part, that is read.
            span: the part. None: all of the file.

        Raises:
            OSError: the store failed; another attempt may succeed.
            VitritonError: see `place`.
        """
        files, path = self.place(uri)
        try:
            with files.open_input_file(path) as file:
                first, size = Span(0, file.size()) if span is None else span
                if size > max_bytes:
                    return Unreadable(f"{size} bytes are over the limit of {max_bytes}", "too_large")
                data: bytes = file.read_at(size, first)
        except (FileNotFoundError, NotADirectoryError):
            return Unreadable("no such file", "not_found")
        except (PermissionError, IsADirectoryError) as exc:
            return Unreadable(_reason(exc), "not_readable")
        except OSError as exc:
            if any(word in str(exc) for word in _OF_ONE_FILE):
                return Unreadable(_reason(exc), "not_readable")
            raise
        return data if len(data) == size else Unreadable(f"{size - len(data)} bytes are missing", "truncated")

    def kind(self, uri: str) -> Literal["file", "folder"] | None:
        """What is at a URI; None if nothing is.

        Raises:
            OSError: the store failed.
            VitritonError: see `place`.
        """
        files, path = self.place(uri)
        name = files.get_file_info(path).type.name
        return "file" if name == "File" else "folder" if name == "Directory" else None

    def find(
        self,
        uri: str,
        suffixes: Set[str],
        *,
        recursive: bool = True,
        passed_over: Callable[[str], None] = lambda suffix: None,
    ) -> Iterator[str]:
        """Yields the URIs of the files in a folder that have these suffixes, in bounded memory.

        The order is that of a folder on a disk: each folder's files before its subfolders, both sorted by name. What
        begins with a dot is left out.

        Args:
            uri: the URI of the folder.
            suffixes: the suffixes, in lower case.
            recursive: whether to search subfolders.
            passed_over: the function that gets the suffix of each other file.

        Raises:
            OSError: the store failed, or the folder does not exist.
        """
        top = self.place(uri)
        folders = [top.path]
        while folders:
            inside = sorted(StoragePlace(top.files, folders.pop()).entries(), key=lambda info: info.base_name)
            inner = []
            for info in inside:
                if info.base_name.startswith(".") or not top.below(info.path):
                    continue
                if not info.is_file:
                    inner += [info.path] if recursive else []
                elif (suffix := PurePosixPath(info.base_name).suffix.lower()) in suffixes:
                    yield uri.rstrip("/") + top.below(info.path)
                else:
                    passed_over(suffix)
            folders += reversed(inner)


def read_ahead(
    items: Iterable[_Item], read: Callable[[_Item], _Read], *, threads: int = 16, ahead: int = 64
) -> Iterator[_Read]:
    """Reads items on threads, a limited number ahead, and yields the results in order.

    Args:
        items: the items.
        read: the function that reads one; what it raises is raised here, in its place.
        threads: the number of threads.
        ahead: the largest number of items that are read and not yet taken.
    """
    waiting: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="vitriton-storage") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _pyarrow_fs() -> Any:
    try:
        from pyarrow import fs
    except ImportError as exc:
        raise VitritonError(
            "reading from a store needs pyarrow; install it with: pip install 'vitriton[parquet]'"
        ) from exc
    return fs


def _connect(fs: Any, root: str, scheme: str, authority: str) -> StoragePlace:
    """The file system of a store."""
    import pyarrow

    try:
        if scheme in _OF_PYARROW:
            return StoragePlace(*fs.FileSystem.from_uri(f"{root}/" if scheme == "file" else root))
        import fsspec

        return StoragePlace(fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), authority)
    except (pyarrow.ArrowInvalid, OSError) as exc:
        raise InvalidOption("", f"{root} cannot be opened: {_reason(exc)}") from exc
    except (ImportError, ValueError) as exc:  # of fsspec
        raise InvalidOption("", f"{root} cannot be opened: nothing that is installed here reads {scheme}://") from exc


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())
