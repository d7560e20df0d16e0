"""The inputs of a job: which files list its rows, in which columns, and whether their ids differ."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import SUFFIXES
from vitriton._console.paths import missing
from vitriton._errors import InvalidOption, Unreadable
from vitriton._storage import Storage, is_remote, read_ahead
from vitriton._tables.parquet import import_pyarrow
from vitriton._tables.rows import TABLES, Columns, PlainLines, RowFile

from vitriton_ray._ids import Ids, hashes
from vitriton_ray._job import Kind, Shard
from vitriton_ray._options import RayOptions
from vitriton_ray._output import BulkOutput

_URI_COLUMNS = ("uri", "path")
_TEXT_COLUMN, _ID_COLUMN = "text", "id"
_BATCH_ROWS = 8192
_FEWEST, _MOST = 256, 8192  # rows of a shard, unless told
_SHARDS = 1024  # about as many, where that allows it
_FOOTERS = 16  # read at a time
_OPTION = {"uri": "list_file", "bytes": "list_file", "text": "texts"}
_VALUE_OPTION = {"uri": "path_column", "bytes": "bytes_column", "text": "text_column"}


@dataclass(frozen=True, kw_only=True)
class JobInputs:
    """The inputs of a job, before they are counted.

    Attributes:
        sources: what was named.
        kind: what a row has.
        value_column: the column with that.
        id_column: the column of the ids; None if there is none.
        tables: the Parquet files that list the rows; empty if they are to be made (`make`).
        sha256: the hash of the names, sizes and times of the named tables; None for folders of images.
    """

    sources: tuple[str, ...]
    kind: Kind
    value_column: str
    id_column: str | None
    tables: tuple[str, ...]
    sha256: str | None


def find_inputs(storage: Storage, options: RayOptions) -> JobInputs:
    """Finds the inputs; of tables, looks at the columns alone.

    Raises:
        InvalidOption: a table does not exist, or does not have the columns.
        CommandFailed: a table cannot be read.
    """
    if options.images:
        sources = tuple(_absolute(uri) for uri in options.images)
        for uri in sources:
            if _kind(storage, uri, "") != "folder":
                raise InvalidOption("", f"{_missing(uri)}; name folders of images")
        return JobInputs(sources=sources, kind="uri", value_column="uri", id_column=None, tables=(), sha256=None)
    named = options.list_file if options.texts is None else options.texts
    assert named is not None
    kind: Kind = "text" if options.texts is not None else "bytes" if options.bytes_column is not None else "uri"
    option = _OPTION[kind]
    source = _absolute(named)
    files = _tables(storage, source, option)
    stamps = [(info.path, info.size, info.mtime_ns) for info in files]
    sha256 = hashlib.sha256(repr(stamps).encode("utf-8", "backslashreplace")).hexdigest()
    value = options.text_column or options.path_column or options.bytes_column
    suffix = PurePosixPath(files[0].path).suffix.lower()
    if suffix == ".parquet":
        place = storage.place(source)
        tables = tuple(source + place.below(info.path) for info in files)
        value, identity = _columns(_schema(storage, tables[0], option), tables[0], kind, value, options.id_column)
        return JobInputs(
            sources=(source,), kind=kind, value_column=value, id_column=identity, tables=tables, sha256=sha256
        )
    if kind == "bytes":
        raise InvalidOption("bytes_column", f"is for .parquet; {source} has no column of bytes")
    with _row_file(storage, source, kind, value, options.id_column) as file:
        columns = file.columns
    return JobInputs(
        sources=(source,), kind=kind, value_column=columns.value, id_column=columns.identity, tables=(), sha256=sha256
    )


def make_manifest(storage: Storage, inputs: JobInputs, output: BulkOutput) -> JobInputs:
    """Lists folders, or turns a table of lines into Parquet, for workers to read parts of; a Parquet table stays.

    Raises:
        InvalidOption: there is nothing, or a row has no path or no id.
        CommandFailed, OSError: a store failed, or the table changed.
    """
    if inputs.tables:
        return inputs
    pa, _ = import_pyarrow("writing", "run the command on one machine")
    names = [inputs.value_column] if inputs.id_column is None else [inputs.value_column, inputs.id_column]
    schema = pa.schema([(name, pa.string()) for name in names])
    rows = _listed(storage, inputs.sources) if inputs.sha256 is None else _rows_of(storage, inputs)
    with output.manifest(schema) as writer:
        while batch := list(islice(rows, _BATCH_ROWS)):
            columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns[: len(names)], schema=schema), row_group_size=_BATCH_ROWS)
    return JobInputs(**{**vars(inputs), "tables": (output.manifest_uri,)})


def count_rows(storage: Storage, tables: Sequence[str]) -> list[int]:
    """The number of rows of each table, from its end alone.

    Raises:
        CommandFailed: a table cannot be read.
    """
    _, pq = import_pyarrow("reading", "run the command on one machine")

    def rows(uri: str) -> int:
        place = storage.place(uri)
        try:
            return int(pq.read_metadata(place.path, filesystem=place.files).num_rows)
        except (OSError, ValueError) as exc:
            raise CommandFailed(f"{uri} cannot be read as a Parquet file: {' '.join(str(exc).split())}") from exc

    return list(read_ahead(tables, rows, threads=_FOOTERS, ahead=4 * _FOOTERS))


def shard_size(rows: int, wanted: int | None) -> int:
    """The largest number of rows of a shard: a power of two, or what is wanted."""
    if wanted is not None:
        return wanted
    size = _FEWEST
    while size < _MOST and size * _SHARDS < rows:
        size *= 2
    return size


def cut(tables: Sequence[str], counts: Sequence[int], size: int) -> list[Shard]:
    """Cuts tables into shards. No shard has rows of two tables."""
    spans = (
        (uri, first, min(size, rows - first))
        for uri, rows in zip(tables, counts, strict=True)
        for first in range(0, rows, size)
    )
    return [Shard(number, *span) for number, span in enumerate(spans)]


def check_ids(storage: Storage, inputs: JobInputs) -> Literal["string", "int64"]:
    """Checks that each row has an id of its own; returns the type of the ids.

    A folder has each file once, and rows that are known by their number have each number once.

    Raises:
        InvalidOption: a row has no id, or two rows have the same.
        CommandFailed: a table cannot be read.
    """
    column = inputs.id_column or (inputs.value_column if inputs.kind == "uri" and inputs.sha256 is not None else None)
    if column is None:
        return "string"
    pa, _ = import_pyarrow("reading", "run the command on one machine")
    whole = True
    with Ids() as ids:
        for uri, first, values in _values(storage, inputs.tables, column):
            if values.null_count:
                at = next(index for index, value in enumerate(values) if not value.is_valid)
                raise InvalidOption(
                    _OPTION[inputs.kind],
                    f"{uri}, row {first + at + 1}: column {column!r} is null; every row needs an id",
                )
            whole = whole and pa.types.is_integer(values.type)
            ids.add(values)
        doubles = ids.find_doubles()
    if doubles.size and (told := _told_double(storage, inputs.tables, column, doubles)) is not None:
        raise InvalidOption(_OPTION[inputs.kind], told)
    return "int64" if whole and inputs.id_column is not None else "string"


def _told_double(storage: Storage, tables: Sequence[str], column: str, doubles: Any) -> str | None:
    """The words for an id that occurs twice, by hashes that do; None if none does after all."""
    places: dict[Any, str] = {}
    for uri, first, values in _values(storage, tables, column):
        for at in np.isin(hashes(values), doubles).nonzero()[0].tolist():
            value, place = values[at].as_py(), f"row {first + at + 1} of {uri}"
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


def _tables(storage: Storage, source: str, option: str) -> list[Any]:
    """The named table, or the .parquet files of the named folder, sorted by name."""
    kind = _kind(storage, source, option)
    place = storage.place(source)
    if kind == "file":
        suffix = PurePosixPath(place.path).suffix.lower()
        known = [*TABLES, *([".txt"] if option == "texts" else [])]
        if suffix not in known:
            raise InvalidOption(
                option, f"{source} must end in one of {', '.join(known)}, or be a folder of .parquet files"
            )
        return list(place.files.get_file_info([place.path]))
    if kind is None:
        raise InvalidOption(option, _missing(source))
    hidden = ("_", ".")
    found = [
        info
        for info in place.entries(recursive=True)
        if info.is_file
        and info.base_name.endswith(".parquet")
        and not any(part.startswith(hidden) for part in place.below(info.path).split("/"))
    ]
    if not found:
        raise InvalidOption(option, f"the folder {source} has no .parquet files")
    return sorted(found, key=lambda info: info.path)


def _schema(storage: Storage, uri: str, option: str) -> Any:
    _, pq = import_pyarrow("reading", "run the command on one machine")
    place = storage.place(uri)
    try:
        return pq.read_schema(place.path, filesystem=place.files)
    except (OSError, ValueError) as exc:
        raise InvalidOption(option, f"{uri} cannot be read as a Parquet file: {' '.join(str(exc).split())}") from exc


def _columns(schema: Any, uri: str, kind: Kind, value: str | None, identity: str | None) -> tuple[str, str | None]:
    """The columns with the values and the ids of a Parquet table."""
    candidates = (value,) if value is not None else (_TEXT_COLUMN,) if kind == "text" else _URI_COLUMNS
    found = next((name for name in candidates if name in schema.names), None)
    if found is None:
        told = " nor ".join(f"{name!r}" for name in candidates)
        are = "is not a column" if len(candidates) == 1 else "are not columns"
        raise InvalidOption(_VALUE_OPTION[kind], f"{told} {are} of {uri}; it has {', '.join(schema.names)}")
    _check_type(schema, uri, found, _VALUE_OPTION[kind], "bytes" if kind == "bytes" else "text")
    if identity is None:
        return found, _ID_COLUMN if _ID_COLUMN in schema.names else None
    if identity not in schema.names:
        raise InvalidOption("id_column", f"{identity!r} is not a column of {uri}; it has {', '.join(schema.names)}")
    _check_type(schema, uri, identity, "id_column", "text or integers")
    return found, identity


def _check_type(schema: Any, uri: str, column: str, option: str, wanted: str) -> None:
    import pyarrow.types as types

    kind = schema.field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    fits = {
        "bytes": types.is_binary(kind) or types.is_large_binary(kind),
        "text": types.is_string(kind) or types.is_large_string(kind),
        "text or integers": types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind),
    }
    if not fits[wanted]:
        raise InvalidOption(option, f"{column!r} of {uri} holds {kind}, and not {wanted}")


def _listed(storage: Storage, folders: Sequence[str]) -> Iterator[tuple[str]]:
    """Yields the images in folders."""
    is_empty = True
    for folder in folders:
        try:
            for uri in storage.find(folder, SUFFIXES):
                is_empty = False
                yield (uri,)
        except OSError as exc:
            raise CommandFailed(f"the folder {folder} cannot be read: {' '.join(str(exc).split())}") from exc
    if is_empty:
        raise InvalidOption("", f"{', '.join(folders)} {'holds' if len(folders) == 1 else 'hold'} no image")


def _rows_of(storage: Storage, inputs: JobInputs) -> Iterator[tuple[str | None, str | None]]:
    """Yields the values and ids of a table of lines."""
    source = inputs.sources[0]
    with _row_file(storage, source, inputs.kind, inputs.value_column, inputs.id_column) as file:
        for number, (value, identity) in enumerate(file.rows(), 1):
            if isinstance(value, Unreadable) and (identity is None and inputs.id_column is not None):
                raise InvalidOption(
                    _OPTION[inputs.kind], f"{source}, row {number}: {value.reason}; mend the row, or remove it"
                )
            yield None if isinstance(value, Unreadable) else value, identity
        file.check_unchanged()


@contextmanager
def _row_file(storage: Storage, source: str, kind: Kind, value: str | None, identity: str | None) -> Iterator[RowFile]:
    """Opens a table of lines; one of a store is copied to this machine first."""
    suffix = PurePosixPath(source).suffix.lower()
    opens: Any = PlainLines if suffix == ".txt" else TABLES[suffix]
    noun: Literal["text", "path"] = "text" if kind == "text" else "path"
    with tempfile.TemporaryDirectory(prefix="vitriton-") as folder:
        path = Path(source)
        if is_remote(source):
            place = storage.place(source)
            path = Path(folder) / f"rows{suffix}"
            with place.files.open_input_stream(place.path) as remote, path.open("wb") as copy:
                shutil.copyfileobj(remote, copy, 1 << 20)
        candidates = (value,) if value is not None else (_TEXT_COLUMN,) if kind == "text" else _URI_COLUMNS
        tried = [
            (name, own) for name in candidates for own in ((identity,) if identity is not None else (_ID_COLUMN, None))
        ]
        for name, own in tried:
            try:
                yield_ = opens(path, source, Columns(name, None if suffix == ".txt" else own, noun))
            except InvalidOption:
                if (name, own) == tried[-1]:
                    raise
            else:
                yield yield_
                return


def _kind(storage: Storage, uri: str, option: str) -> Literal["file", "folder"] | None:
    try:
        return storage.kind(uri)
    except OSError as exc:
        raise InvalidOption(option, f"{uri} cannot be read: {' '.join(str(exc).split())}") from exc


def _absolute(uri: str) -> str:
    """A URI, or a path as all nodes know it."""
    if uri[:7].lower() == "file://":
        return unquote(urlsplit(uri).path)
    return uri.rstrip("/") if is_remote(uri) else str(Path(uri).absolute())


def _missing(uri: str) -> str:
    return f"{uri} does not exist" if is_remote(uri) else missing(uri)
