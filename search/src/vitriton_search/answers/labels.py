"""The labels of rows: from a file, or from the folders that the photos are in."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitriton_search.answers.errors import AnswerError
from vitriton_search.answers.vectors import Vectors
from vitriton_search.sources import is_url, path_of, source_of

_NAMES = ("id", "path", "source")  # columns that say which row a label is of
_LABEL = "label"
_MAX_NAMED = 3


@dataclass(frozen=True)
class Labels:
    """The labels of a file.

    Attributes:
        by: the column that says which row a label is of: id, path or source.
        labels: the label of each id or path.
        folder: the folder of the file, in which relative paths may be.
    """

    by: str
    labels: Mapping[str, str]
    folder: Path

    def match(self, vectors: Vectors) -> tuple[list[str | None], list[str]]:
        """The label of each row, None for a row without one; and the names in the file that no row has."""
        names = vectors.ids if self.by == "id" else vectors.sources
        wanted = dict(self._keys())
        found = [wanted.get(name) for name in names.to_pylist()]
        used = set(found)
        missing = [name for name in self.labels if name not in used]
        return [None if name is None else self.labels[name] for name in found], missing

    def _keys(self) -> Iterator[tuple[str, str]]:
        """What a row is known by, and the name in the file; a path from the current folder comes before others."""
        if self.by == "id":
            yield from ((name, name) for name in self.labels)
            return
        for folder in (self.folder, Path()):
            for name in self.labels:
                is_source = is_url(name) or name.startswith("file://")
                yield name if is_source else source_of(str(folder / name)), name


def read_labels(path: Path) -> Labels:
    """Reads a CSV file with a column `label`, and a column `id`, `path` or `source`.

    A path is relative to the current folder, or to that of the file.

    Raises:
        AnswerError: the file cannot be read, has other columns, a line without a value, or two labels of one row.
    """
    labels: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            by = _column(path, reader.fieldnames or ())
            for row in reader:
                name, label = row[by], row[_LABEL]
                if not name or not label:
                    raise AnswerError(f"{path}:{reader.line_num}: the line has no {_LABEL if name else by}")
                if labels.setdefault(name, label) != label:
                    raise AnswerError(
                        f"{path}:{reader.line_num}: {name} has the label {label} here, and {labels[name]} before"
                    )
    except (OSError, UnicodeError, csv.Error) as exc:
        raise AnswerError(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if not labels:
        raise AnswerError(f"{path} holds no label; write a line for each row below the names of the columns")
    return Labels(by, labels, path.parent)


def folder_labels(vectors: Vectors) -> list[str | None]:
    """The name of the folder that each row's file is in; None for a source that is in none."""
    names = (path_of(source) or source for source in vectors.sources.to_pylist())
    return [name.rpartition("/")[0].rpartition("/")[2] or None for name in names]


def named(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _column(path: Path, columns: Sequence[str]) -> str:
    by = next((name for name in _NAMES if name in columns), None)
    if by is None or _LABEL not in columns:
        has = f"it has {', '.join(columns)}" if columns else "it has none"
        raise AnswerError(f"{path} needs a column `label` and one of {', '.join(_NAMES)} in its first line; {has}")
    return by
