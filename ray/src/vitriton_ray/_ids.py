"""Whether the ids of a job differ, for any number of them: by their hashes, in files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from vitriton._console.failure import CommandFailed
from vitriton._errors import InvalidOption
from vitriton._storage import Storage
from vitriton._tables.parquet import import_pyarrow

from vitriton_ray._inputs import JobInputs

_BUCKETS = 64


def check_ids(storage: Storage, inputs: JobInputs) -> Literal["string", "int64"]:
    """Checks that each row has an id of its own; returns the type of the ids.

    One folder has each file once, and rows that are known by their number have each number once.

    Raises:
        InvalidOption: a row has no id, or two rows have the same.
        CommandFailed: a table cannot be read.
    """
    is_one_folder = inputs.is_listed and len(inputs.sources) == 1
    column = inputs.id_column or (inputs.value_column if inputs.kind == "uri" and not is_one_folder else None)
    if column is None:
        return "string"
    pa, _ = import_pyarrow("reading", "run the command on one machine")
    whole = True
    with Ids() as ids:
        for uri, first, values in _values(storage, inputs.tables, column):
            if values.null_count:
                at = next(index for index, value in enumerate(values) if not value.is_valid)
                raise InvalidOption(
                    inputs.option,
                    f"{uri}, row {first + at + 1}: column {column!r} is null; every row needs an id",
                )
            whole = whole and pa.types.is_integer(values.type)
            ids.add(values)
        doubles = ids.find_doubles()
    if doubles.size and (told := _told_double(storage, inputs, column, doubles)) is not None:
        raise InvalidOption(inputs.option, told)
    return "int64" if whole and inputs.id_column is not None else "string"


def _told_double(storage: Storage, inputs: JobInputs, column: str, doubles: Any) -> str | None:
    """The words for an id that occurs twice, by hashes that do; None if none does after all."""
    places: dict[Any, str] = {}
    for uri, first, values in _values(storage, inputs.tables, column):
        for at in np.isin(hashes(values), doubles).nonzero()[0].tolist():
            value, place = values[at].as_py(), f"row {first + at + 1} of {uri}"
            if value in places and inputs.is_listed:
                return f"{value} is in more than one of the folders or files that are named; name it once"
            if value in places:
                return (
                    f"column {column!r} has {value!r} twice, in {places[value]} and {place}; ids must differ, as each "
                    "is in the output once"
                )
            places[value] = place
    return None


def _values(storage: Storage, tables: Sequence[str], column: str) -> Iterator[tuple[str, int, Any]]:
    """Yields a column of tables in pieces: the table, the index of the first row, the array."""
    pa, pq = import_pyarrow("reading", "run the command on one machine")
    for uri in tables:
        place, first = storage.place(uri), 0
        try:
            with pq.ParquetFile(place.files.open_input_file(place.path), buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(65_536, columns=[column]):
                    values = batch.column(0)
                    if pa.types.is_dictionary(values.type):
                        values = values.dictionary_decode()
                    yield uri, first, values
                    first += len(values)
        except (OSError, pa.ArrowException) as exc:
            raise CommandFailed(f"{uri} cannot be read: {' '.join(str(exc).split())}") from exc


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
