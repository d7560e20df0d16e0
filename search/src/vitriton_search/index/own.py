"""The user's own columns, from a list that assigns them to images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import csv
from pyarrow import json as json_lines
from vitriton._console.paths import file_fault
from vitriton._console.signals import Signals
from vitriton._errors import InvalidOption

from vitriton_search.index.rows import BATCH_ROWS
from vitriton_search.sources import is_url, source_of
from vitriton_search.stores.store import Store

_PATH, _ID = "path", "id"
_OPTION = "columns"


@dataclass(frozen=True)
class OwnColumns:
    """Columns and their values.

    Attributes:
        path: the file that they were read from.
        table: the values, with the id of the row that each belongs to.
    """

    path: Path
    table: pa.Table

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """The types of the columns, by name."""
        return {field.name: field.type for field in self.table.schema if field.name != _ID}

    def write(self, store: Store, signals: Signals) -> int:
        """Writes the values into the rows that they belong to; returns the number of values without a row.

        The values of a video belong to all its frames.

        Raises:
            StoreError: the store failed.
        """
        names = list(self.types)
        number_with = {name: number for number, name in enumerate(self.table[_ID].to_pylist())}
        values = list(zip(*(self.table[name].to_pylist() for name in names), strict=True))
        seen: set[int] = set()
        other: dict[str, int] = {}  # the rows with other values, with the numbers of theirs
        columns = [_ID, "source", *names]
        for part in store.scan(columns):
            for name, source, *there in zip(*(part[column].to_pylist() for column in columns), strict=True):
                number = number_with.get(name, number_with.get(source))
                if number is not None:
                    seen.add(number)
                    if tuple(there) != values[number]:
                        other[name] = number
        ids = list(other)
        for start in range(0, len(ids), BATCH_ROWS):
            self._write(store, ids[start : start + BATCH_ROWS], other, signals)
        return len(number_with) - len(seen)

    def _write(self, store: Store, ids: Sequence[str], number_of: Mapping[str, int], signals: Signals) -> None:
        table = store.rows(ids)
        places = pa.array([number_of[name] for name in table[_ID].to_pylist()], pa.int64())
        for name in self.types:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), self.table[name].take(places))
        with signals.held():
            store.write(table)


def read_columns(path: Path) -> OwnColumns:
    """Reads columns from a file with a line for each image, and `path` or `id` among the columns.

    Raises:
        InvalidOption: the file cannot be read, or names no images.
    """
    if (fault := file_fault(path)) is not None:
        raise InvalidOption(_OPTION, fault)
    if path.suffix not in (".csv", ".jsonl"):
        raise InvalidOption(_OPTION, f"{path} must end in .csv or .jsonl")
    try:
        table = _read_csv(path) if path.suffix == ".csv" else json_lines.read_json(path)  # type: ignore[attr-defined]  # pyarrow's
    except (OSError, pa.ArrowException) as exc:
        raise InvalidOption(_OPTION, f"{path} cannot be read: {' '.join(str(exc).split())}") from exc
    names = table.column_names
    if len(set(names)) < len(names):
        raise InvalidOption(_OPTION, f"{path} has several columns of one name")
    keys = [name for name in (_ID, _PATH) if name in names]
    if not keys:
        raise InvalidOption(_OPTION, f"{path} has neither a column id nor path; it has {', '.join(names)}")
    key = keys[0]
    if pa.types.is_integer(table[key].type):  # of JSON; an id may be a number
        table = table.set_column(names.index(key), key, table[key].cast(pa.string()))
    if not (pa.types.is_string(table[key].type) and all(table[key].to_pylist())):
        raise InvalidOption(_OPTION, f"{path} has rows without text in column {key}")
    ids = [text if key == _ID or is_url(text) else source_of(text) for text in table[key].to_pylist()]
    if len(set(ids)) < len(ids):
        raise InvalidOption(_OPTION, f"{path} has several lines for one image")
    own = {name: _column(table[name]) for name in names if name not in (_ID, _PATH)}
    if not own:
        raise InvalidOption(_OPTION, f"{path} has no column besides {key}")
    return OwnColumns(path, pa.table({_ID: ids, **own}))


def _read_csv(path: Path) -> pa.Table:
    texts = {name: pa.string() for name in (_ID, _PATH)}  # also those that look like numbers
    options = csv.ConvertOptions(column_types=texts)  # type: ignore[attr-defined]  # pyarrow's
    return csv.read_csv(path, convert_options=options)  # type: ignore[attr-defined]  # the same


def _column(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column, in a type that a store has, if there is one like its own."""
    kind = values.type
    if pa.types.is_null(kind):
        return values.cast(pa.string())
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return values.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)))
    return values
