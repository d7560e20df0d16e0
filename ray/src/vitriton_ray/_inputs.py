"""The inputs of a job: which files list its rows, and in which columns."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import SUFFIXES
from vitriton._console.paths import missing
from vitriton._errors import InvalidOption, Unreadable
from vitriton._storage import Storage, is_remote, read_ahead
from vitriton._tables.parquet import import_pyarrow
from vitriton._tables.rows import TABLES, TABULAR, Columns, PlainLines, RowFile

from vitriton_ray._job import COLUMNS, Kind
from vitriton_ray._options import RayOptions
from vitriton_ray._output import BulkOutput
from vitriton_ray._tars import find_tars, is_tar, list_members

_URI_COLUMNS = ("uri", "path")
_TEXT_COLUMN, _ID_COLUMN = "text", "id"
_BATCH_ROWS = 8192
_AT_A_TIME = 16  # tars looked at
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
        kept_columns: the other columns to copy to the output.
        tables: the Parquet files that list the rows; empty if they are to be made (`make_manifest`).
        tars: the tars whose members are the rows.
        sha256: the hash of the names, sizes and times of the named tables or tars; None for folders of images.
    """

    sources: tuple[str, ...]
    kind: Kind
    value_column: str
    id_column: str | None = None
    kept_columns: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    tars: tuple[str, ...] = ()
    sha256: str | None = None

    @property
    def option(self) -> str:
        """The option that names them; empty for the arguments."""
        return "" if self.is_listed else _OPTION[self.kind]

    @property
    def is_listed(self) -> bool:
        """Whether the rows are what is in folders or in tars, and not in a table."""
        return bool(self.tars) or self.sha256 is None


def find_inputs(storage: Storage, options: RayOptions) -> JobInputs:
    """Finds the inputs; of tables, looks at the columns alone.

    Raises:
        InvalidOption: a table does not exist, or does not have the columns.
        CommandFailed: a table cannot be read.
    """
    if options.images:
        return _named(storage, tuple(_absolute(uri) for uri in options.images))
    named = options.list_file if options.texts is None else options.texts
    assert named is not None
    kind: Kind = "text" if options.texts is not None else "bytes" if options.bytes_column is not None else "uri"
    option = _OPTION[kind]
    source = _absolute(named)
    files = _tables(storage, source, option)
    sha256 = _hash(files)
    value = options.text_column or options.path_column or options.bytes_column
    suffix = PurePosixPath(files[0].path).suffix.lower()
    if suffix == ".parquet":
        place = storage.place(source)
        tables = tuple(source + place.below(info.path) for info in files)
        schema = _schema(storage, tables[0], option)
        value, identity = _columns(schema, tables[0], kind, value, options.id_column)
        _check_kept(schema, tables[0], options.keep_column)
        return JobInputs(
            sources=(source,),
            kind=kind,
            value_column=value,
            id_column=identity,
            kept_columns=tuple(options.keep_column),
            tables=tables,
            sha256=sha256,
        )
    lines = ("path_column", "text_column", "id_column") if suffix == ".txt" else ()
    for name in ("bytes_column", "keep_column", *lines):
        if getattr(options, name):
            raise InvalidOption(name, f"is for {TABULAR if name in lines else '.parquet'}, and {source} is none")
    with _row_file(storage, source, kind, value, options.id_column) as file:
        columns = file.columns
    return JobInputs(
        sources=(source,), kind=kind, value_column=columns.value, id_column=columns.identity, sha256=sha256
    )


def make_manifest(storage: Storage, inputs: JobInputs, output: BulkOutput) -> JobInputs:
    """Lists folders or tars, or turns a table of lines into Parquet, for workers to read parts of.

    A Parquet table stays as it is.

    Raises:
        InvalidOption: there is nothing, a row has no path or no id, or a tar is none.
        CommandFailed, OSError: a store failed, or the table changed.
    """
    if inputs.tables:
        return inputs
    pa, _ = import_pyarrow("writing", "run the command on one machine")
    names = [inputs.value_column] if inputs.id_column is None else [inputs.value_column, inputs.id_column]
    schema = pa.schema([(name, pa.string()) for name in names])
    rows = _listed(storage, inputs) if inputs.is_listed else _rows_of(storage, inputs)
    with output.manifest(schema) as writer:
        while batch := list(islice(rows, _BATCH_ROWS)):
            columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns[: len(names)], schema=schema), row_group_size=_BATCH_ROWS)
    return replace(inputs, tables=(output.manifest_uri,))


def _tables(storage: Storage, source: str, option: str) -> list[Any]:
    """The named table, or the .parquet files of the named folder, sorted by name."""
    kind = _kind(storage, source, option)
    place = storage.place(source)
    if kind == "file":
        suffix = PurePosixPath(place.path).suffix.lower()
        known = (*TABLES, ".txt")
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
    has = (lambda name: _type_of(schema, name) is not None) if kind == "bytes" else schema.names.__contains__
    found = next(filter(has, candidates), None)
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


def _check_kept(schema: Any, uri: str, kept: Sequence[str]) -> None:
    for name in kept:
        if name not in schema.names:
            raise InvalidOption("keep_column", f"{name!r} is not a column of {uri}; it has {', '.join(schema.names)}")
        if name in COLUMNS:
            raise InvalidOption("keep_column", f"{name!r} is a column of every output; give that of {uri} another name")
    if len(set(kept)) < len(kept):
        raise InvalidOption("keep_column", f"names a column twice, of {', '.join(kept)}")


def _type_of(schema: Any, column: str) -> Any:
    """The type of a column, or of a field of one, such as image.bytes; None if there is none."""
    if column in schema.names:
        return schema.field(column).type
    from pyarrow.types import is_struct

    name, _, inner = column.partition(".")
    outer = schema.field(name).type if name in schema.names else None
    if outer is None or not is_struct(outer):
        return None
    return next((field.type for field in outer if field.name == inner), None)


def _check_type(schema: Any, uri: str, column: str, option: str, wanted: str) -> None:
    import pyarrow.types as types

    kind = _type_of(schema, column)
    if types.is_dictionary(kind):
        kind = kind.value_type
    fits = {
        "bytes": types.is_binary(kind) or types.is_large_binary(kind),
        "text": types.is_string(kind) or types.is_large_string(kind),
        "text or integers": types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind),
    }
    if not fits[wanted]:
        raise InvalidOption(option, f"{column!r} of {uri} holds {kind}, and not {wanted}")


def _named(storage: Storage, sources: tuple[str, ...]) -> JobInputs:
    """The folders of images, or the tars, that are named.

    Raises:
        InvalidOption: one of them does not exist, or there are both.
    """
    if not any(map(is_tar, sources)):
        for uri in sources:
            if _kind(storage, uri, "") != "folder":
                raise InvalidOption("", f"{_missing(uri)}; name folders of images, or .tar files")
        return JobInputs(sources=sources, kind="uri", value_column="uri")
    if not all(map(is_tar, sources)):
        raise InvalidOption("", "name folders of images, or .tar files, and not both; run the command once for each")

    def look(uri: str) -> Any:
        place = storage.place(uri)
        info = place.files.get_file_info(place.path)
        if not info.is_file:
            raise InvalidOption("", f"{_missing(uri)}; name .tar files")
        return info

    try:
        tars = tuple(find_tars(storage, sources))
        infos = list(read_ahead(tars, look, threads=_AT_A_TIME, ahead=4 * _AT_A_TIME))
    except OSError as exc:
        raise CommandFailed(f"{', '.join(sources)} cannot be read: {' '.join(str(exc).split())}") from exc
    return JobInputs(sources=sources, kind="member", value_column="uri", id_column="id", tars=tars, sha256=_hash(infos))


def _hash(files: Sequence[Any]) -> str:
    """The hash of the names, sizes and times of files."""
    stamps = [(info.path, info.size, info.mtime_ns) for info in files]
    return hashlib.sha256(repr(stamps).encode("utf-8", "backslashreplace")).hexdigest()


def _listed(storage: Storage, inputs: JobInputs) -> Iterator[tuple[str, ...]]:
    """Yields the images in folders, or in tars."""
    passed_over: Counter[str] = Counter()
    is_empty = True
    for row in list_members(storage, inputs.tars) if inputs.tars else _in_folders(storage, inputs.sources, passed_over):
        is_empty = False
        yield row
    if is_empty:
        holds = "holds" if len(inputs.sources) == 1 else "hold"
        tars = f"; name its .tar files, as in {inputs.sources[0]}/*.tar" if passed_over[".tar"] else ""
        raise InvalidOption("", f"{', '.join(inputs.sources)} {holds} no image{tars}")


def _in_folders(storage: Storage, folders: Sequence[str], passed_over: Counter[str]) -> Iterator[tuple[str]]:
    for folder in folders:
        try:
            for uri in storage.find(folder, SUFFIXES, passed_over=lambda suffix: passed_over.update([suffix])):
                yield (uri,)
        except OSError as exc:
            raise CommandFailed(f"the folder {folder} cannot be read: {' '.join(str(exc).split())}") from exc


def _rows_of(storage: Storage, inputs: JobInputs) -> Iterator[tuple[str | None, str | None]]:
    """Yields the values and ids of a table of lines."""
    source = inputs.sources[0]
    with _row_file(storage, source, inputs.kind, inputs.value_column, inputs.id_column) as file:
        is_plain = isinstance(file, PlainLines) and inputs.kind == "uri"
        for number, (value, identity) in enumerate(file.rows(), 1):
            if is_plain and isinstance(value, str) and not value.strip():
                continue  # as where one machine reads a list
            needs_id = inputs.id_column is not None or inputs.kind == "uri"
            if isinstance(value, Unreadable) and identity is None and needs_id:
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
