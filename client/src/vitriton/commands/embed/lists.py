"""Lists of images: a path or URL on each line, or in a column of a table."""

from __future__ import annotations

import os
from pathlib import Path

from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import PathList, read_lines
from vitriton._console.paths import file_fault
from vitriton._errors import InvalidOption, Unreadable
from vitriton._tables.rows import TABLES, TABULAR, Columns, rereadable

_PATH_COLUMN = "path"


def read_list(name: str, path_column: str | None, id_column: str | None) -> PathList:
    """Reads a list of images: the rows of a table, or else the lines of the file (see `read_lines`).

    Args:
        name: the path of the list, whose suffix tells a table; `-`: standard input, with JSON Lines if a column is
            named, and else with plain ones.
        path_column: the column with the paths and URLs. None: "path".
        id_column: the column that identifies an image; None if none does.

    Raises:
        InvalidOption: the list does not exist or does not have the columns, or a row has no path or no id.
        CommandFailed: the list cannot be read, or pyarrow is missing.
    """
    if name != "-" and (fault := file_fault(Path(name))) is not None:
        raise InvalidOption("list_file", fault)
    has_columns = path_column is not None or id_column is not None
    suffix = ".jsonl" if name == "-" and has_columns else Path(name).suffix.lower()
    if suffix in TABLES:
        try:
            return _read_table(name, suffix, Columns(path_column or _PATH_COLUMN, id_column, "path"))
        except OSError as exc:
            raise CommandFailed(f"the list {name} cannot be read: {exc.strerror or exc}") from exc
    if has_columns:
        option = "id_column" if path_column is None else "path_column"
        raise InvalidOption(option, f"is for {TABULAR}; {name} has a path on each line, and no columns")
    return read_lines(name)


def _read_table(name: str, suffix: str, columns: Columns) -> PathList:
    paths, ids = [], []
    with rereadable(name) as path:
        file = TABLES[suffix](path, "stdin" if name == "-" else name, columns)
        for number, (value, identity) in enumerate(file.rows(), 1):
            reason = value.reason if isinstance(value, Unreadable) else _path_fault(value, columns.value)
            if isinstance(value, Unreadable) or reason is not None:
                raise InvalidOption("list_file", f"{file.name}, row {number}: {reason}; mend the row, or remove it")
            paths.append(value)
            ids.append(identity or "")
        file.check_unchanged()
    return PathList(file.name, paths, None if columns.identity is None else ids)


def _path_fault(path: str, column: str) -> str | None:
    """The fault of a path that no file can have; None if there is none."""
    if not path or "\0" in path:
        return f"column {column!r} {'has a null character' if path else 'is empty'}"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return f"column {column!r} has half of a surrogate pair"
    return None
