"""LanceDB as a store: embedded, in a folder."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from vitriton_search.stores import notes
from vitriton_search.stores.store import COLUMNS, KNOWN, Floats, Hit, Space, Store, StoreError
from vitriton_search.stores.where import Value, Where, to_sql

os.environ.setdefault("LANCEDB_LOG", "error")  # read once; it warns on the terminal of what it mends itself

import lancedb
from lancedb.index import IvfSq

_TABLE = "rows"
_LOCK = "rows.lock"
_OURS = re.compile(rf"\..*|.*\.lance|{_LOCK}")  # in the folder of a database; hidden files are the system's
_INDEXED_ROWS = 20_000  # with fewer, comparing with every row is about as fast as the index
_PROBES = 40  # cells of the index, of some 8,000 vectors each; more are asked where a condition leaves too few rows
_REFINED = 4  # of an approximate search: rows compared once more with their whole vectors, for each of the k
_IDS = 1000  # in one statement
_SAID = 500  # characters of what LanceDB says
_CODE = re.compile(r",? *\S+\.rs:[\d:]+")  # the places in LanceDB's code
_TOGETHER = 16  # queries, which cost less together; each may hold a part of the rows in memory
_CACHES = {"index_cache_size_bytes": 2**30, "metadata_cache_size_bytes": 2**28}  # LanceDB's own are 6 GiB and more
_KEPT = timedelta(minutes=15)  # of replaced rows and files, for those who still read them
_WRITES = 100  # the fewest between two times that the files of small writes are joined
_GROWTH = 4  # and then the rows of these writes are at least 1/4 of those before


class LanceStore(Store):
    """A LanceDB database with one table.

    Processes and threads write one after the other, under a lock: two of LanceDB's own upserts at a time that bring the
    same new ids can write them twice.

    Args:
        folder: the folder of the database.
        table: the table.
    """

    def __init__(self, folder: Path, table: Any) -> None:
        self._folder = folder
        self._table = table
        schema: pa.Schema = table.schema
        noted = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        if not (version := noted.get("vitriton_search", "")).isdecimal():
            raise StoreError(f"{folder} is a LanceDB database of something else; name another folder")
        notes.check_format(int(version), folder)
        dimensions = schema.field("embedding").type.list_size
        self.space = Space(model=noted["model"], fingerprint=noted["fingerprint"], dimensions=dimensions)
        self.own = {field.name: field.type for field in schema if field.name not in {*COLUMNS, "embedding"}}
        self._writes = self._written = 0  # and their rows, since the files were joined

    @classmethod
    def open(cls, url: str) -> LanceStore | None:
        """Opens the store in a folder; None if there is none."""
        folder = Path(url)
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file; a store is a folder")
        with _told(folder):
            # a process that was killed while it made the table has left a folder without a version
            if not any((folder / f"{_TABLE}.lance" / "_versions").glob("*.manifest")):
                return None
            return cls(folder, _connected(folder).open_table(_TABLE))

    @classmethod
    def create(cls, url: str, space: Space, own: Mapping[str, pa.DataType]) -> LanceStore:
        """Makes an empty store in a folder, or opens the one that another process has just made."""
        folder = Path(url)
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if others := [path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)]:
                raise StoreError(f"{folder} is a folder with other files ({others[0]}); name one that is new or empty")
            noted = {"vitriton_search": str(notes.FORMAT), "model": space.model, "fingerprint": space.fingerprint}
            vector = pa.list_(pa.float32(), space.dimensions)
            schema = pa.schema([*COLUMNS.items(), *own.items(), ("embedding", vector)], metadata=noted)
            with _alone(folder):
                made = cls.open(url)
                if made is None:  # one that is empty is false, too
                    made = cls(folder, _connected(folder).create_table(_TABLE, schema=schema))
                return made

    def __len__(self) -> int:
        with _told(self._folder):
            return int(self._table.count_rows())

    def known(self) -> pa.Table:
        """See `Store`."""
        with _told(self._folder):
            return self._table.search().select(list(KNOWN)).to_arrow()

    def write(self, rows: pa.Table) -> None:
        """See `Store`."""
        rows = self.checked(rows)
        if not len(rows):
            return
        with _told(self._folder), _alone(self._folder):
            merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows, on_bad_vectors="null")  # rows with an error have none; the others are checked
            self._writes += 1
            self._written += len(rows)
            if self._writes >= _WRITES and self._written * _GROWTH >= self._table.count_rows():
                self._tidy()

    def delete(self, ids: Sequence[str]) -> None:
        """See `Store`."""
        with _told(self._folder), _alone(self._folder):
            for start in range(0, len(ids), _IDS):
                self._table.delete(_one_of(ids[start : start + _IDS]))

    def search(self, vectors: Floats, k: int, where: Where | None = None, *, exact: bool = False) -> list[list[Hit]]:
        """See `Store`."""
        queries = self.checked_queries(vectors)
        found: list[list[Hit]] = []
        with _told(self._folder):
            for start in range(0, len(queries), _TOGETHER):
                found += self._nearest(queries[start : start + _TOGETHER], k, where, exact)
        return found

    def _nearest(self, queries: Floats, k: int, where: Where | None, exact: bool) -> list[list[Hit]]:
        columns = [name for name in self.schema.names if name != "embedding"]
        query = self._table.search(list(queries), vector_column_name="embedding").distance_type("cosine")
        query = query.limit(k).select([*columns, "_distance"])
        if where is not None:
            query = query.where(_sql(where))
        if exact:
            query = query.bypass_vector_index()
        else:
            query = query.minimum_nprobes(_PROBES).maximum_nprobes(0).refine_factor(_REFINED)
        found: list[list[Hit]] = [[] for _ in queries]
        for row in query.to_list():
            number, score = row.pop("query_index", 0), 1.0 - row.pop("_distance")
            found[number].append(Hit(id=row["id"], score=score, row=row))
        return [sorted(hits, key=lambda hit: -hit.score) for hits in found]

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """See `Store`."""
        ids = list(dict.fromkeys(ids))
        with _told(self._folder):
            parts = [
                self._table.search().where(_one_of(ids[start : start + _IDS])).select(self.schema.names).to_arrow()
                for start in range(0, len(ids), _IDS)
            ]
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def scan(self, columns: Sequence[str], where: Where | None = None) -> Iterator[pa.RecordBatch]:
        """See `Store`."""
        with _told(self._folder):
            query = self._table.search().select(list(columns))
            yield from (query if where is None else query.where(_sql(where))).to_batches()

    def build_index(self) -> None:
        """See `Store`."""
        with _told(self._folder), _alone(self._folder):
            if not self.has_index and self._table.count_rows("embedding IS NOT NULL") >= _INDEXED_ROWS:
                self._table.create_index("embedding", config=IvfSq(distance_type="cosine"))
            self._tidy()

    def _tidy(self) -> None:
        """Joins the files of small writes, brings indexes up to date, and removes what no one reads anymore."""
        # Under the lock no one writes, so files of no version are those of a writer that was killed.
        self._table.optimize(cleanup_older_than=_KEPT, delete_unverified=True)
        self._writes = self._written = 0

    @property
    def has_index(self) -> bool:
        """See `Store`."""
        return any(index.columns == ["embedding"] for index in self._table.list_indices())

    def remove(self) -> None:
        """See `Store`; the tables of others in the same database stay."""
        with _told(self._folder), _alone(self._folder):
            _connected(self._folder).drop_table(_TABLE)
            (self._folder / _LOCK).unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def close(self) -> None:
        """See `Store`; nothing is held."""


def _connected(folder: Path) -> Any:
    """The database; what another process has written is seen by the next question."""
    return lancedb.connect(folder, read_consistency_interval=timedelta(0), session=lancedb.Session(**_CACHES))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other thread or process writes; the end of a process, however it came, frees the lock."""
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Makes a StoreError of what LanceDB raises."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as exc:
        said = _CODE.sub("", str(exc).partition("\n")[0])[:_SAID] or type(exc).__name__
        raise StoreError(f"{folder}: {said}") from exc


def _one_of(ids: Sequence[str]) -> str:
    return f"id IN ({', '.join(map(_literal, ids))})"


def _sql(where: Where) -> str:
    return to_sql(where, _name, _literal)


def _name(column: str) -> str:
    return f"`{column}`"


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone(timezone.utc).replace(tzinfo=None)
        return f"timestamp '{value.isoformat(sep=' ')}'"
    return repr(value)
