"""PostgreSQL with pgvector as a store: one table, with what is noted of the store in its comment."""

from __future__ import annotations

import json
import re
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import conninfo, sql
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo

from vitriton_search.stores import notes
from vitriton_search.stores.address import shown
from vitriton_search.stores.keys import key_of
from vitriton_search.stores.store import COLUMNS, KNOWN, Floats, Hit, Space, Store, StoreError
from vitriton_search.stores.where import Value, Where, to_sql

_TABLE = "vitriton"
_KEY = "id_uuid"  # the primary key: an index has no room for long ids
_INDEXED_ROWS = 50_000  # below, comparing with every row takes some ten milliseconds
_LONGEST = 16_000  # numbers of a vector in a table
_LONGEST_INDEXED = 2_000  # in an index; as halfvec (float16) twice as many
_CANDIDATES = 200  # of an approximate search (hnsw.ef_search), where not more rows are wanted
_REFINED = 4  # of a search in float16: rows compared once more with their whole vectors, for each of the k
_PAGE = 2_000  # rows at a time
_LOCK = 0x76697472  # of those who make tables and indexes: "vitr"


class PostgresStore(Store):
    """A table of PostgreSQL, with an HNSW index of pgvector above a size.

    Args:
        database: the database with the table.
        note: what is noted of the store.
    """

    def __init__(self, database: _Database, note: Any) -> None:
        self._database = database
        self.space, self.own = notes.read(note, database.name)

    @classmethod
    def open(cls, url: str) -> PostgresStore | None:
        """Opens the store at `postgresql://…?table=…`; None if there is no such table."""
        database = _Database(url)
        with database.begin() as connection:
            note = database.note(connection)
        return None if note is None else cls(database, note)

    @classmethod
    def create(cls, url: str, space: Space, own: Mapping[str, pa.DataType]) -> PostgresStore:
        """Makes an empty store, and the extension `vector` where the database lacks it."""
        database = _Database(url)
        note = notes.noted(space, own)
        if space.dimensions > _LONGEST:
            raise StoreError(f"pgvector holds vectors of {_LONGEST} numbers, and these have {space.dimensions}")
        columns = [sql.SQL("{} uuid PRIMARY KEY").format(sql.Identifier(_KEY))]
        for name, kind in {**COLUMNS, **own}.items():
            bytewise = ' COLLATE "C"' if pa.types.is_string(kind) else ""  # as texts compare in the other stores
            columns.append(sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_SQL_TYPES[kind] + bytewise)))
        columns.append(sql.SQL("embedding vector({})").format(sql.Literal(space.dimensions)))
        with database.begin() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            there = database.note(connection)
            if there is None:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                table = sql.SQL("CREATE TABLE {} ({})").format(database.table, sql.SQL(", ").join(columns))
                connection.execute(table)
                comment = sql.SQL("COMMENT ON TABLE {} IS {}").format(database.table, sql.Literal(json.dumps(note)))
                connection.execute(comment)
        return cls(database, note if there is None else there)

    def __len__(self) -> int:
        with self._database.connection() as connection:
            (number,) = connection.execute(self._sql("SELECT count(*) FROM {table}")).fetchone()
        return int(number)

    def known(self) -> pa.Table:
        """See `Store`."""
        schema = pa.schema([(name, COLUMNS[name]) for name in KNOWN])
        return pa.Table.from_batches(self.scan(KNOWN), schema)

    def write(self, rows: pa.Table) -> None:
        """See `Store`."""
        rows = self.checked(rows)
        names = [_KEY, *rows.column_names]
        values = [rows[name].to_pylist() for name in rows.column_names[:-1]]
        kinds = ["uuid", *(_SQL_TYPES[kind] for kind in rows.schema.types[:-1]), "vector"]
        replaced = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names[1:]]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        with self._database.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.execute(self._sql("CREATE TEMPORARY TABLE incoming (LIKE {table}) ON COMMIT DROP"))
            arriving = self._sql("COPY pg_temp.incoming ({columns}) FROM STDIN (FORMAT BINARY)", columns=columns)
            with cursor.copy(arriving) as copy:
                copy.set_types(kinds)
                for row in zip(map(key_of, rows["id"].to_pylist()), *values, _vectors(rows), strict=True):
                    copy.write_row(row)
            # in the order of the keys, so that two who write the same rows wait for each other, and for nothing else
            merge = (
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM pg_temp.incoming ORDER BY {key} "
                "ON CONFLICT ({key}) DO UPDATE SET {replaced}"
            )
            cursor.execute(self._sql(merge, columns=columns, replaced=sql.SQL(", ").join(replaced)))

    def delete(self, ids: Sequence[str]) -> None:
        """See `Store`."""
        with self._database.connection() as connection:
            connection.execute(self._sql("DELETE FROM {table} WHERE {key} = ANY(%s)"), ([*map(key_of, ids)],))

    def search(self, vectors: Floats, k: int, where: Where | None = None, *, exact: bool = False) -> list[list[Hit]]:
        """See `Store`."""
        queries = self.checked_queries(vectors)
        with self._database.connection() as connection:
            indexed = not exact and self._index_of(connection)
            return [self._nearest(connection, query, k, where, indexed=indexed) for query in queries]

    def _nearest(
        self, connection: psycopg.Connection[Any], query: Floats, k: int, where: Where | None, *, indexed: bool
    ) -> list[Hit]:
        schema = pa.schema([field for field in self.schema if field.name != "embedding"])
        condition, values = self._condition(connection, where)
        nearest = self._sql(
            "SELECT {columns}, embedding <=> %s FROM {table} WHERE embedding IS NOT NULL AND {where} "
            "ORDER BY {distance} LIMIT %s",
            columns=sql.SQL(", ").join(map(sql.Identifier, schema.names)),
            where=condition,
            # a sum is in no index: every row is compared
            distance=self._indexed_distance() if indexed else sql.SQL("(embedding <=> %s) + 0"),
        )
        wanted = k * _REFINED if indexed and self.space.dimensions > _LONGEST_INDEXED else k
        with connection.transaction(), connection.cursor(binary=True) as cursor:
            if indexed:
                settings = {"hnsw.ef_search": str(min(max(_CANDIDATES, wanted), 1000)), **_ITERATIVE}
                for setting in settings.items():
                    cursor.execute("SELECT set_config(%s, %s, true)", setting)
            cursor.execute(nearest, (query, *values, query, wanted))
            found = cursor.fetchall()
        if indexed and len(found) < k:  # the index gave up before it had found all that meet the condition
            return self._nearest(connection, query, k, where, indexed=False)
        found.sort(key=lambda row: row[-1])  # an iterative scan is not quite in order
        hits = _batch([row[:-1] for row in found[:k]], schema).to_pylist()
        return [Hit(id=hit["id"], score=1 - row[-1], row=hit) for hit, row in zip(hits, found, strict=False)]

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """See `Store`."""
        columns = sql.SQL(", ").join(map(sql.Identifier, self.schema.names))
        asked = self._sql("SELECT {columns} FROM {table} WHERE {key} = ANY(%s)", columns=columns)
        with self._database.connection() as connection, connection.cursor(binary=True) as cursor:
            found = cursor.execute(asked, ([*map(key_of, ids)],)).fetchall()
        return pa.Table.from_batches([_batch(found, self.schema)])

    def scan(self, columns: Sequence[str], where: Where | None = None) -> Iterator[pa.RecordBatch]:
        """See `Store`."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        # a cursor in the server, in one transaction: all rows are of one moment
        with (
            self._database.connection() as connection,
            connection.transaction(),
            connection.cursor("scan", binary=True) as cursor,
        ):
            condition, values = self._condition(connection, where)
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            cursor.execute(
                self._sql("SELECT {columns} FROM {table} WHERE {where}", columns=names, where=condition), values
            )
            while found := cursor.fetchmany(_PAGE):
                yield _batch(found, schema)

    def build_index(self) -> None:
        """See `Store`. A vector of more than 4,000 numbers has no index."""
        if len(self) < _INDEXED_ROWS or self.space.dimensions > 2 * _LONGEST_INDEXED:
            return
        half = self.space.dimensions > _LONGEST_INDEXED
        kind = sql.SQL("halfvec_cosine_ops" if half else "vector_cosine_ops")
        with self._database.connection() as connection:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                if self._index_of(connection):
                    return
                made = self._sql(
                    "CREATE INDEX ON {table} USING hnsw ({column} {kind})", column=self._column(), kind=kind
                )
                connection.execute(made)
            connection.execute(self._sql("ANALYZE {table}"))

    @property
    def has_index(self) -> bool:
        """See `Store`."""
        with self._database.connection() as connection:
            return self._index_of(connection)

    def _index_of(self, connection: psycopg.Connection[Any]) -> bool:
        asked = (
            "SELECT EXISTS (SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "JOIN pg_am ON pg_am.oid = relam "
            "WHERE indrelid = to_regclass(%s) AND amname = 'hnsw' AND indisvalid)"
        )
        (found,) = connection.execute(asked, (self._database.table.as_string(connection),)).fetchone()
        return bool(found)

    def remove(self) -> None:
        """See `Store`."""
        with self._database.connection() as connection:
            connection.execute(self._sql("DROP TABLE IF EXISTS {table}"))
        self.close()

    def close(self) -> None:
        """See `Store`."""
        self._database.close()

    def _column(self) -> sql.Composable:
        """What the index is made of."""
        if self.space.dimensions <= _LONGEST_INDEXED:
            return sql.SQL("embedding")
        return sql.SQL("(embedding::halfvec({}))").format(sql.Literal(self.space.dimensions))

    def _indexed_distance(self) -> sql.Composable:
        """The distance to a query by which the index is in order."""
        if self.space.dimensions <= _LONGEST_INDEXED:
            return sql.SQL("embedding <=> %s")
        half = sql.SQL("halfvec({})").format(sql.Literal(self.space.dimensions))
        return sql.SQL("{} <=> %s::{}").format(self._column(), half)

    def _condition(
        self, connection: psycopg.Connection[Any], where: Where | None
    ) -> tuple[sql.Composable, list[Value]]:
        """A condition in SQL, and its values in the order of their places."""
        values: list[Value] = []

        def name(column: str) -> str:
            return str(sql.Identifier(column).as_string(connection))

        def literal(value: Value) -> str:
            values.append(value)
            return "%s"

        return sql.SQL("true" if where is None else to_sql(where, name, literal)), values

    def _sql(self, text: str, **parts: sql.Composable) -> sql.Composable:
        return sql.SQL(text).format(table=self._database.table, key=sql.Identifier(_KEY), **parts)


# An index is asked on until enough rows meet the condition; near the end, comparing with every row is faster.
_ITERATIVE = {"hnsw.iterative_scan": "relaxed_order", "hnsw.max_scan_tuples": "100000"}


class _Database:
    """The database of a store, and its connections: one for each thread that asks at the same time.

    Attributes:
        name: the URL without its password.
        table: the name of the table.
    """

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        try:
            parts = urlsplit(url)
            options = parse_qsl(parts.query, keep_blank_values=True)
            kept = urlencode([option for option in options if option[0] != "table"], quote_via=quote)
            self._conninfo = parts._replace(query=kept).geturl()
            conninfo.conninfo_to_dict(self._conninfo)
        except (ValueError, psycopg.Error):  # their messages may show the password
            message = (
                "a store is postgresql://USER:PASSWORD@HOST:PORT/DATABASE?table=NAME, with %40 for @ in a password"
            )
            raise StoreError(f"{self.name} cannot be read as a URL; {message}") from None
        self.table = sql.Identifier(*(dict(options).get("table") or _TABLE).split(".", 1))
        self._idle: deque[psycopg.Connection[Any]] = deque()

    @contextmanager
    def begin(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for one transaction, in a database that need not have pgvector yet."""
        with self._in_words(), self._connect() as connection, connection.transaction():
            yield connection

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that knows vectors, for a while."""
        with self._in_words():
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
                _register_vectors(connection, self.name)
            try:
                yield connection
            finally:
                if connection.closed:
                    self.close()  # the others were lost with it
                else:
                    self._idle.append(connection)

    def note(self, connection: psycopg.Connection[Any]) -> Any:
        """What is noted in the comment of the table, as JSON; None if there is no table."""
        name = self.table.as_string(connection)
        asked = "SELECT to_regclass(%s) IS NULL, obj_description(to_regclass(%s), 'pg_class')"
        missing, comment = connection.execute(asked, (name, name)).fetchone()
        if missing:
            return None
        try:
            return json.loads(comment or "{}")
        except ValueError:
            return {}

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> psycopg.Connection[Any]:
        # No prepared statements: their plans would not know how many rows meet a condition.
        try:
            connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as exc:
            hint = "see that the server runs, and that address, user and password are right"
            raise StoreError(f"{self.name} cannot be reached: {_reason(exc)}; {hint}") from exc
        connection.execute("SET TIME ZONE 'UTC'")
        return connection

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as exc:
            if isinstance(exc, psycopg.OperationalError) and (exc.sqlstate or "08")[:2] in ("08", "57"):
                again = "when the server answers, give the command again: it goes on where it stopped"
                raise StoreError(f"{self.name}: the connection was lost ({_reason(exc)}); {again}") from exc
            needed = "; the server needs pgvector 0.8 or later" if '"vector"' in str(exc) else ""
            raise StoreError(f"{self.name}: {_reason(exc)}{needed}") from exc


def _reason(exc: psycopg.Error) -> str:
    lines = (line.strip() for line in str(exc).splitlines())
    return next((line for line in lines if line), type(exc).__name__)


# Vectors on the wire, as vector_send and vector_recv of pgvector have them: length, nothing, numbers, in network order.


class _VectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Floats) -> bytes:
        return struct.pack(">HH", len(obj), 0) + obj.astype(">f4").tobytes()


class _VectorLoader(Loader):
    format = Format.BINARY

    def load(self, data: bytes | bytearray | memoryview) -> Floats:
        return np.frombuffer(data, ">f4", offset=4).astype(np.float32)


def _register_vectors(connection: psycopg.Connection[Any], name: str) -> None:
    (version,) = connection.execute("SELECT max(extversion) FROM pg_extension WHERE extname = 'vector'").fetchone()
    kind = TypeInfo.fetch(connection, "vector")
    if kind is None or [*map(int, re.findall(r"\d+", version or ""))] < [0, 8]:
        connection.close()
        there = f"pgvector {version}" if version else "no pgvector"
        raise StoreError(f"{name} has {there}; install 0.8 or later, and run CREATE EXTENSION vector or ALTER … UPDATE")
    kind.register(connection)
    connection.adapters.register_dumper(np.ndarray, type("VectorDumper", (_VectorDumper,), {"oid": kind.oid}))
    connection.adapters.register_loader(kind.oid, _VectorLoader)


_SQL_TYPES = {
    pa.string(): "text",
    pa.bool_(): "bool",
    pa.int32(): "int4",
    pa.int64(): "int8",
    pa.float64(): "float8",
    pa.timestamp("us"): "timestamp",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


def _vectors(rows: pa.Table) -> Iterator[Floats | None]:
    """The vector of each row, (D,) float32."""
    for chunk in rows["embedding"].chunks:
        present = iter(chunk.flatten().to_numpy().reshape(-1, chunk.type.list_size))
        yield from (next(present) if valid else None for valid in chunk.is_valid().to_pylist())


def _batch(found: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*found, strict=True) if found else [()] * len(schema)
    return pa.record_batch([pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)], schema)
