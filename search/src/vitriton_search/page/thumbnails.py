"""The thumbnails that have been made, in a folder of bounded size."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger("vitriton.search")

MIB = 1024 * 1024
_SUFFIX = ".jpg"
_KEPT = 0.9  # of the bounds, when the oldest are removed


class Thumbnails:
    """A folder of thumbnails, by their keys. Safe to share between threads; several processes may use one folder.

    If the folder cannot be written, thumbnails are made each time.

    Args:
        folder: the folder; it is made if it is not there.
        max_bytes: the largest size of all files, in bytes.
        max_files: the largest number of files.
    """

    def __init__(self, folder: Path, max_bytes: int = 512 * MIB, max_files: int = 50_000) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._lock = threading.Lock()
        self._bytes = self._files = 0
        self._is_counted = False
        self._has_failed = False

    def find(self, key: str) -> bytes | None:
        """Returns a thumbnail; None if it is not there.

        Args:
            key: the key, of letters and digits.
        """
        path = self._path(key)
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            os.utime(path)  # the oldest are removed first
            return data
        return None

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Returns a thumbnail, which is made if it is not there.

        Args:
            key: the key, of letters and digits.
            make: the function that makes it.
        """
        found = self.find(key)
        if found is not None:
            return found
        data = make()
        try:
            self._put(self._path(key), data)
        except OSError as exc:
            if not self._has_failed:
                self._has_failed = True
                _LOG.warning("thumbnails cannot be kept in %s: %s", self._folder, exc.strerror)
        return data

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _put(self, path: Path, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            try:
                file.write(data)
                file.close()
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        with self._lock:
            self._files += 1
            self._bytes += len(data)
            if not self._is_counted or self._files > self._max_files or self._bytes > self._max_bytes:
                self._trim()

    def _trim(self) -> None:
        """Counts the files, which other processes may have changed, and removes the oldest of too many."""
        found = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(OSError):  # another process has removed it
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, status.st_size, entry.path))
        found.sort(reverse=True)
        self._is_counted = True
        self._files, self._bytes = len(found), sum(size for _, size, _ in found)
        if self._files <= self._max_files and self._bytes <= self._max_bytes:
            return
        while found and (self._files > _KEPT * self._max_files or self._bytes > _KEPT * self._max_bytes):
            _, size, oldest = found.pop()
            Path(oldest).unlink(missing_ok=True)
            self._files -= 1
            self._bytes -= size


def cache_folder() -> Path:
    """The folder of thumbnails: `vitriton/thumbnails` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vitriton" / "thumbnails"
