"""Whether ids differ, for any number of them: by their hashes, in files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BUCKETS = 64


def hashes(ids: Any) -> NDArray[np.uint64]:
    """The hash of each id of an Arrow array of text or integers, (N,)."""
    import pyarrow as pa

    if pa.types.is_integer(ids.type):
        values: NDArray[Any] = ids.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
        # splitmix64: neighboring numbers would be in one bucket
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
        return mixed
    from pandas.util import hash_array  # Ray Data needs pandas as well

    found: NDArray[np.uint64] = hash_array(ids.to_numpy(zero_copy_only=False).astype(object), categorize=False)
    return found


class Ids:
    """The hashes of ids: 8 bytes each, in files by their first bits, of which one at a time is sorted in memory."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vitriton-ids-")
        self._paths = [Path(self._folder.name) / str(number) for number in range(_BUCKETS)]

    def __enter__(self) -> Ids:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def add(self, ids: Any) -> None:
        """Takes an Arrow array of ids.

        Raises:
            OSError: the disk is full.
        """
        found = np.sort(hashes(ids))
        ends = np.searchsorted(found >> np.uint64(58), np.arange(_BUCKETS + 1, dtype=np.uint64))
        for path, start, end in zip(self._paths, ends[:-1], ends[1:], strict=True):
            if start < end:
                with path.open("ab") as file:
                    file.write(found[start:end].tobytes())

    def find_doubles(self) -> NDArray[np.uint64]:
        """The hashes that were taken twice, of one file of them. Ids that differ may be among them."""
        for path in self._paths:
            if path.exists():
                found = np.sort(np.fromfile(path, np.uint64))
                same: NDArray[np.uint64] = found[1:][found[1:] == found[:-1]]
                if same.size:
                    return same
        return np.empty(0, np.uint64)
