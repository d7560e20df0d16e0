"""Files of texts or of paths, read row by row: lines, CSV, JSON Lines, Parquet."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from vitriton._console.failure import CommandFailed
from vitriton._errors import InvalidOption, Unreadable
from vitriton._tables.parquet import import_pyarrow

# A longer line is not kept in memory. A model takes far shorter texts, but a JSON object may have other long columns.
_MAX_LINE_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_BATCH_ROWS = 256  # of a Parquet file: few, as each text may be long
_LOOKED_AT = 100  # lines among which one must have the column
_BOM = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"  # the first bytes of such a file
_JSON_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
_FILE_OPTIONS = {"text": "texts", "path": "list_file"}


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        value: the text or the path, or the reason why there is none.
        identity: the value of the column that identifies the row; None if there is no such column, or no usable value.
    """

    value: str | Unreadable
    identity: str | None


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        rows: the number of rows.
        sha256: the hash of the bytes.
    """

    rows: int
    sha256: str


class Columns(NamedTuple):
    """The columns of a file that are used.

    Attributes:
        value: the name of the column with the texts or the paths.
        identity: the name of the column that identifies a row; None if none does.
        noun: the kind of the values: "text", or "path" in a list of images.
    """

    value: str
    identity: str | None
    noun: Literal["text", "path"] = "text"

    @property
    def file_option(self) -> str:
        """The option that names the file."""
        return _FILE_OPTIONS[self.noun]

    @property
    def value_option(self) -> str:
        """The option that names the column of the values."""
        return f"{self.noun}_column"


class RowFile(ABC):
    """A file of texts or of paths, which must stay as it is while it is used.

    Args:
        path: the path of the file.
        name: the file's name in messages.
        columns: the columns to read.
    """

    def __init__(self, path: Path, name: str, columns: Columns) -> None:
        self.path = path
        self.name = name
        self.columns = columns
        self._stamp = self._read_stamp()

    @abstractmethod
    def read_content(self) -> Content:
        """Reads the whole file once, to count and compare it."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Yields all rows, in order and in bounded memory.

        Raises:
            OSError: the file cannot be read.
        """

    def check_unchanged(self) -> None:
        """Checks that nobody has written to the file since it was opened.

        Raises:
            CommandFailed: somebody has.
        """
        if self._read_stamp() != self._stamp:
            raise CommandFailed(f"{self.name} was changed while it was read; repeat the command when it is complete")

    def _read_stamp(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


class _Lines(RowFile):
    """A file with a row on each line. An empty line is a row, so that the number of a row is that of its line."""

    def read_content(self) -> Content:
        """See `RowFile`."""
        digest, rows, last = hashlib.sha256(), 0, b"\n"
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                rows, last = rows + chunk.count(b"\n"), chunk[-1:]
        return Content(rows + (last != b"\n"), digest.hexdigest())

    def rows(self) -> Iterator[Row]:
        """See `RowFile`."""
        with self.path.open("rb") as file:
            for line in _bounded_lines(file):
                yield Row(line, None) if isinstance(line, Unreadable) else self._row(line)

    @abstractmethod
    def _row(self, line: str) -> Row:
        """The row of a line."""


class PlainLines(_Lines):
    """A text or a path on each line, in UTF-8; lines end with LF or CRLF.

    Raises:
        InvalidOption: the file begins as a binary file does.
    """

    def __init__(self, path: Path, name: str, columns: Columns) -> None:
        super().__init__(path, name, columns)
        with path.open("rb") as file:
            start = file.read(_CHUNK_BYTES)
        if start.startswith(_PARQUET):
            raise InvalidOption(columns.file_option, f"{name} is a Parquet file; give it a name that ends in .parquet")
        if b"\0" in start:
            at = start.index(b"\0")
            raise InvalidOption(
                columns.file_option, f"{name} is not a file of {columns.noun}s in UTF-8: byte {at} is a null character"
            )

    def _row(self, line: str) -> Row:
        return Row(line, None)


class JsonLines(_Lines):
    """A JSON object on each line.

    Raises:
        InvalidOption: the first lines do not have the columns.
    """

    def __init__(self, path: Path, name: str, columns: Columns) -> None:
        super().__init__(path, name, columns)
        with path.open("rb") as file:
            lines = [line for line in islice(_bounded_lines(file), _LOOKED_AT) if isinstance(line, str)]
        found = [entry for entry in map(_parse, lines) if isinstance(entry, dict)]
        names = {key: None for entry in found for key in entry}  # in order
        if found:
            _check_columns(columns, list(names), name)

    def _row(self, line: str) -> Row:
        entry = _parse(line)
        if isinstance(entry, Unreadable):
            return Row(entry, None)
        return _make_row(self.columns, entry)


class CsvRows(RowFile):
    """A CSV file, whose first row has the names of the columns. Blank lines are no rows.

    Raises:
        InvalidOption: the first row does not have the columns.
    """

    def __init__(self, path: Path, name: str, columns: Columns) -> None:
        super().__init__(path, name, columns)
        with self._open() as file:
            _check_columns(columns, self._names(file), name)

    def read_content(self) -> Content:
        """See `RowFile`."""
        return Content(sum(1 for _ in self.rows()), _sha256(self.path))

    def rows(self) -> Iterator[Row]:
        """See `RowFile`."""
        with self._open() as file:
            names, reader = self._names(file), self._reader(file)
            while True:
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as exc:
                    yield Row(Unreadable(f"is not CSV: {exc}", "corrupt"), None)
                else:
                    if values:
                        yield _make_row(self.columns, dict(zip(names, values, strict=False)))

    def _open(self) -> IO[str]:
        # A path need not be UTF-8; bytes that are not become what Python makes of them in any path.
        return self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _names(self, file: IO[str]) -> list[str]:
        try:
            return next(self._reader(file), [])
        except csv.Error as exc:
            raise InvalidOption(self.columns.file_option, f"{self.name} cannot be read as CSV: {exc}") from exc

    def _reader(self, file: IO[str]) -> Iterator[list[str]]:
        return csv.reader(iter(partial(file.readline, _MAX_LINE_BYTES), ""), strict=True)


class ParquetRows(RowFile):
    """A Parquet file.

    Raises:
        CommandFailed: pyarrow is missing.
        InvalidOption: the file is no Parquet file, or does not have the columns.
    """

    def __init__(self, path: Path, name: str, columns: Columns) -> None:
        super().__init__(path, name, columns)
        self._pyarrow, self._parquet = import_pyarrow("reading", f"give the {columns.noun}s as .jsonl")
        try:
            with self._open() as file:
                schema = file.schema_arrow
                self._count = file.metadata.num_rows
        except (self._pyarrow.ArrowException, OSError) as exc:
            raise InvalidOption(columns.file_option, f"{name} cannot be read as a Parquet file: {exc}") from exc
        _check_columns(columns, schema.names, name)
        self._check_types(schema)

    def read_content(self) -> Content:
        """See `RowFile`."""
        return Content(self._count, _sha256(self.path))

    def rows(self) -> Iterator[Row]:
        """See `RowFile`."""
        used = (self.columns.value, self.columns.identity)
        names = list(dict.fromkeys(name for name in used if name is not None))
        try:
            with self._open() as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                    for values in zip(*(self._values(batch.column(name)) for name in names), strict=True):
                        yield _make_row(self.columns, dict(zip(names, values, strict=True)))
        except self._pyarrow.ArrowException as exc:
            raise OSError(errno.EIO, f"cannot be read: {exc}", self.name) from exc

    def _open(self) -> Any:
        return self._parquet.ParquetFile(self.path, buffer_size=_CHUNK_BYTES, pre_buffer=False)

    def _check_types(self, schema: Any) -> None:
        value = _value_type(schema.field(self.columns.value).type)
        if not self._is_text(value):
            raise InvalidOption(
                self.columns.value_option, f"{self.columns.value!r} of {self.name} holds {value}, not text"
            )
        if self.columns.identity is not None:
            identity = _value_type(schema.field(self.columns.identity).type)
            if not (self._is_text(identity) or self._pyarrow.types.is_integer(identity)):
                raise InvalidOption(
                    "id_column", f"{self.columns.identity!r} of {self.name} holds {identity}; take text or integers"
                )

    def _is_text(self, kind: Any) -> bool:
        types = self._pyarrow.types
        return bool(types.is_string(kind) or types.is_large_string(kind))

    def _values(self, column: Any) -> list[Any]:
        """The values of a column; a text that is not UTF-8 is its own reason."""
        if self._pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not self._is_text(column.type):
            return list(column.to_pylist())
        # Arrow would refuse all texts together for one that is not UTF-8.
        data = column.cast(self._pyarrow.large_binary()).to_pylist()
        return [None if each is None else _decode(each) for each in data]


TABLES: dict[str, type[RowFile]] = {".csv": CsvRows, ".jsonl": JsonLines, ".parquet": ParquetRows}  # with columns
TABULAR = ".csv, .jsonl and .parquet"


@contextmanager
def rereadable(name: str) -> Iterator[Path]:
    """A file that can be read more than once: what comes through a pipe is copied to the disk first.

    Args:
        name: the path of the file; `-`: standard input.
    """
    path = Path(name)
    if name != "-" and path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="vitriton-") as folder:
        copy = Path(folder) / "rows"
        with copy.open("wb") as target:
            if name == "-":
                shutil.copyfileobj(sys.stdin.buffer, target)
            else:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, target)
        yield copy


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _bounded_lines(file: IO[bytes]) -> Iterator[str | Unreadable]:
    """Yields the lines of a file without their ends, of which none is longer in memory than the limit."""
    is_first = True
    while line := file.readline(_MAX_LINE_BYTES + 1):
        if len(line) > _MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Unreadable(f"is longer than {_MAX_LINE_BYTES} bytes", "too_large")
        else:
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            yield _decode(line.removeprefix(_BOM) if is_first else line)
        is_first = False


def _decode(data: bytes) -> str | Unreadable:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        return Unreadable(f"is not UTF-8: byte 0x{data[exc.start]:02x} at position {exc.start}", "encoding")


def _parse(line: str) -> dict[str, Any] | Unreadable:
    """The JSON object of a line. The reason of a failure has nothing of its content."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as exc:
        return Unreadable(f"is not JSON: {exc.msg} at position {exc.pos}", "corrupt")
    except (ValueError, RecursionError) as exc:
        return Unreadable(f"is not JSON that can be read here: {exc}", "corrupt")
    return entry if isinstance(entry, dict) else Unreadable("is not a JSON object", "kind")


def _check_columns(columns: Columns, found: list[str], name: str) -> None:
    for option, column in ((columns.value_option, columns.value), ("id_column", columns.identity)):
        if column is not None and column not in found:
            raise InvalidOption(option, f"{column!r} is not a column of {name}; it has {', '.join(found) or 'none'}")


def _make_row(columns: Columns, entry: dict[str, Any]) -> Row:
    """The row of an entry. Without a usable identity, there is no value either."""
    value = _value(entry, columns)
    if columns.identity is None:
        return Row(value, None)
    identity = _identity(entry, columns.identity)
    return Row(identity, None) if isinstance(identity, Unreadable) else Row(value, identity)


def _value(entry: dict[str, Any], columns: Columns) -> str | Unreadable:
    value = entry.get(columns.value)
    if isinstance(value, (str, Unreadable)):
        return value
    return _no_value(entry, columns.value, f"a {columns.noun}")


def _identity(entry: dict[str, Any], column: str) -> str | Unreadable:
    value = entry.get(column)
    if isinstance(value, Unreadable):
        return Unreadable(f"column {column!r} {value.reason}", value.code)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return _no_value(entry, column, "a text or an integer")
    try:
        value.encode()
    except UnicodeEncodeError:
        return Unreadable(f"column {column!r} has half of a surrogate pair", "encoding")
    if not value or "\0" in value:
        return Unreadable(f"column {column!r} {'has a null character' if value else 'is empty'}", "kind")
    return value


def _no_value(entry: dict[str, Any], column: str, wanted: str) -> Unreadable:
    if column not in entry:
        return Unreadable(f"has no column {column!r}", "kind")
    if entry[column] is None:
        return Unreadable(f"column {column!r} is null", "kind")
    return Unreadable(f"column {column!r} holds {_JSON_KINDS[type(entry[column])]}, not {wanted}", "kind")


def _value_type(kind: Any) -> Any:
    """The type of a column's values, which a dictionary may hold once each."""
    return getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind
