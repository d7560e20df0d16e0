"""What every store does, as tests. The file is also the program that these tests run in other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from vitriton_search.stores import open_store
from vitriton_search.stores.store import COLUMNS, KNOWN, Floats, Space, Store, StoreError
from vitriton_search.stores.where import WhereError, meets, parse

SPACE = Space(model="dinov2-small", fingerprint="sha256:0123456789abcdef", dimensions=8)

OWN: Mapping[str, pa.DataType] = {
    "label": pa.string(),
    "order": pa.int64(),  # a word of SQL
    "Quality": pa.float64(),
    "is kept": pa.bool_(),
    "größe-2": pa.timestamp("us"),
    "sent": pa.timestamp("us", tz="UTC"),
}

ODD_IDS = (
    "it's.jpg",
    "'",
    "''",
    "x' OR 1=1 --",
    '"quoted".jpg',
    "back\\slash.jpg",
    "ends with a backslash\\",
    "\\'",
    "`backtick`.jpg",
    "100%.jpg",
    "a_b.jpg",
    "$1 {0} %s ?.jpg",
    "-- comment /* and */ ;",
    "new\nline\tand tab.jpg",
    " spaces ",
    "Straße/日本語/🦜.jpg",
    "e\u0301 and é",
    "video.mp4#t=12.5",
    "long/" + "x" * 4000,
)

# Each node of the language, with missing values in the columns that it names, alone and under `not`.
CONDITIONS = (
    "width = 300",
    "width != 300",
    "width < 300",
    "width <= 300",
    "width > 300",
    "width >= 300",
    "300 < width",
    "width in (100, 300, 7)",
    "width between 200 and 400",
    "width is null",
    "width is not null",
    "width > 200 and height < 5",
    "width > 400 or height < 5",
    "width > 1000000",
    "time_s > 1.5",
    "time_s = 2",
    "bytes >= 4000000000",
    "id = 'row 3.jpg'",
    "source != '/photos/cat/row 3.jpg'",
    "source >= '/photos/dog'",
    "label = 'it''s'",
    "label = 'x'' OR 1=1 --'",
    "label = 'back\\slash'",
    "label in ('it''s', 'größe', '🦜')",
    "label < 'b'",
    "label like 'a%'",
    "label like '%a%'",
    "label like '%n'",
    "label like 'a_b'",
    "label like 'a\\_b'",
    "label like '100\\%'",
    "label like 'A%'",
    "label like '%'",
    "label like ''",
    "label like 'back\\\\slash'",
    "label like 'new%line'",
    "label like 'new_line'",
    "label like '.*'",
    "label like '(a'",
    "label like '_'",
    '"order" > -2',
    '"order" = -2',
    "Quality <= 0.25",
    "Quality > -1e-3",
    '"is kept" = true',
    '"is kept" != true',
    "\"größe-2\" >= '2025-01-03'",
    "taken < '2025-01-03 12:30:00.000001'",
    "modified > '2025-01-03T10:00:00+02:00'",
    "sent between '2025-01-02' and '2025-01-05'",
    '(width > 100 or label is null) and not (height = 2 or "order" in (1, 2))',
)

LABELS = ("ant", "bean", "it's", "a_b", "axb", "100%", "1000", "back\\slash", "größe", "🦜", "new\nline", "(a", "", "A")


def vectors(number: int, *, dimensions: int = SPACE.dimensions, seed: int = 0) -> Floats:
    """Returns vectors in some clusters, of different lengths, (number, dimensions)."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((20, dimensions))
    found = centers[random.integers(20, size=number)] + 0.3 * random.standard_normal((number, dimensions))
    return (found * random.uniform(0.5, 2, (number, 1))).astype(np.float32)


def rows(
    ids: Sequence[str], embeddings: Sequence[Any] | Floats, own: Mapping[str, pa.DataType] = {}, **columns: Any
) -> pa.Table:
    """Returns rows; a column that is not given has no values, a value that is no list is that of all rows."""
    dimensions = next((len(vector) for vector in embeddings if vector is not None), SPACE.dimensions)
    vector = pa.list_(pa.float32(), dimensions)
    given = {"id": list(ids), "source": list(ids), "sha256": "00", "bytes": 1, **columns}
    given["embedding"] = [None if one is None else np.asarray(one, np.float32) for one in embeddings]
    kinds = {**COLUMNS, **own, "embedding": vector}
    assert given.keys() <= kinds.keys()
    values = {name: given.get(name) for name in kinds}
    return pa.table(
        {name: pa.array(v if isinstance(v, list) else [v] * len(ids), kinds[name]) for name, v in values.items()}
    )


def zoo() -> pa.Table:
    """Returns 56 rows with a value, or none, in every column."""
    n = 56
    start, day = datetime(2025, 1, 1), timedelta(days=1)

    def some(value: Callable[[int], Any], missing: int) -> list[Any]:
        return [None if number % missing == 0 else value(number) for number in range(n)]

    return rows(
        [f"row {number}.jpg" for number in range(n)],
        vectors(n),
        OWN,
        source=[f"/photos/{('cat', 'dog')[number % 2]}/row {number}.jpg" for number in range(n)],
        bytes=[number * 10**9 for number in range(n)],
        modified=some(lambda number: (start + number * day).replace(tzinfo=timezone.utc), 6),
        taken=some(lambda number: start + number * day, 5),
        width=some(lambda number: 100 * (number % 6), 4),
        height=some(lambda number: number % 7, 3),
        time_s=some(lambda number: number / 2, 2),
        label=some(lambda number: LABELS[number // 2 % len(LABELS)], 9),
        order=some(lambda number: number - 5, 7),
        Quality=some(lambda number: (number - 4) / 16, 8),
        **{
            "is kept": some(lambda number: number % 2 == 0, 5),
            "größe-2": some(lambda number: start + number * day, 10),
            "sent": some(lambda number: (start + number * day).replace(tzinfo=timezone.utc), 11),
        },
    )


def cosines(queries: Floats, matrix: Floats) -> NDArray[np.float64]:
    """Returns the cosines, (Q, N), by numpy in double precision."""
    first, second = np.asarray(queries, np.float64), np.asarray(matrix, np.float64)
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    return first @ (second / np.linalg.norm(second, axis=1, keepdims=True)).T


def contents(store: Store) -> list[dict[str, Any]]:
    """Returns all that a store holds, by id."""
    batches = list(store.scan(store.schema.names))
    return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: row["id"])


def ids_of(batches: Iterator[pa.RecordBatch]) -> list[str]:
    """Returns the ids in the batches of a scan."""
    return sorted(str(value) for batch in batches for value in batch.column("id").to_pylist())


class StoreContract:
    """Tests of any store. A subclass gives the fixture `store_url`: the URL of a store that is not there yet.

    The tests that start processes ask for the fixture `subprocesses`.

    Attributes:
        SEVERAL_PROCESSES: whether a store can be open in several processes at a time.
    """

    SEVERAL_PROCESSES = True

    @pytest.fixture
    def make_store(self, store_url: str) -> Iterator[Callable[..., Store]]:
        """Opens the store, which is new and empty at first; called again, opens it once more."""
        opened: list[Store] = []

        def make(space: Space | None = SPACE, own: Mapping[str, pa.DataType] = {}) -> Store:
            opened.append(open_store(store_url, space, own))
            return opened[-1]

        yield make
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, make_store: Callable[..., Store]) -> Store:
        return make_store()

    @pytest.fixture
    def animals(self, make_store: Callable[..., Store]) -> Store:
        """The store with the rows of `zoo`."""
        store = make_store(own=OWN)
        store.write(zoo())
        return store

    # What a store holds

    def test_a_new_store_is_empty(self, store):
        """A new store has its space and the columns, and every question to it has an answer."""
        assert len(store) == 0
        assert (store.space, dict(store.own)) == (SPACE, {})
        assert store.known().num_rows == 0
        assert store.known().column_names == list(KNOWN)
        assert store.rows(["a.jpg"]).num_rows == 0
        assert ids_of(store.scan(["id"])) == []
        assert store.search(vectors(2), 3) == [[], []]
        assert store.search(vectors(2), 3, exact=True) == [[], []]
        store.delete(["a.jpg"])
        store.build_index()
        assert store.search(vectors(1), 3) == [[]]

    def test_rows_come_back(self, animals):
        """What was written is read, in every column and type, vectors to the bit."""
        wanted = sorted(zoo().to_pylist(), key=lambda row: row["id"])
        assert contents(animals) == wanted
        assert sorted(animals.rows([row["id"] for row in wanted]).to_pylist(), key=lambda row: row["id"]) == wanted
        assert len(animals) == len(wanted)

    def test_tables_have_the_schema(self, animals):
        """Rows have the schema of the store, and what is known and scanned the columns that were asked for."""
        assert animals.schema.names == [*COLUMNS, *OWN, "embedding"]
        for table in (animals.rows(["row 1.jpg"]), animals.rows([])):
            assert table.schema.equals(animals.schema)
        assert animals.known().schema.equals(pa.schema([(name, COLUMNS[name]) for name in KNOWN]))
        for batch in animals.scan(["width", "id", "embedding", "order"]):
            assert batch.schema.equals(
                pa.schema([animals.schema.field(n) for n in ("width", "id", "embedding", "order")])
            )

    def test_known(self, animals):
        """The known columns of all rows, those with an error too."""
        animals.write(rows(["bad.jpg"], [None], OWN, error="is no image"))
        expected = [{name: row[name] for name in KNOWN} for row in contents(animals)]
        assert sorted(animals.known().to_pylist(), key=lambda row: row["id"]) == expected
        assert {"bad.jpg": "is no image"}.items() <= {row["id"]: row["error"] for row in expected}.items()

    def test_a_row_replaces_the_one_with_its_id(self, store):
        """A row that is written again is there once, with all of its new values; others are as they were."""
        first, second = vectors(4), vectors(4, seed=1)
        store.write(rows(["a", "b", "c"], first[:3], width=1))
        store.write(rows(["b", "c", "d"], [second[1], None, second[3]], width=[2, None, 4], error=[None, "gone", None]))
        found = {row["id"]: row for row in contents(store)}
        assert {key: (row["width"], row["error"]) for key, row in found.items()} == {
            "a": (1, None),
            "b": (2, None),
            "c": (None, "gone"),
            "d": (4, None),
        }
        assert found["a"]["embedding"] == first[0].tolist()
        assert found["b"]["embedding"] == second[1].tolist()
        assert found["c"]["embedding"] is None
        assert len(store) == 4

    def test_rows_that_are_asked_for(self, store):
        """An id that is not there is left out, and one that is asked for twice comes once."""
        store.write(rows(["a", "b", "c"], vectors(3)))
        assert sorted(store.rows(["c", "a", "z", "c"])["id"].to_pylist()) == ["a", "c"]

    def test_delete(self, store):
        """Deleted rows are gone from every answer, and an id that is not there is no error."""
        matrix = vectors(5)
        store.write(rows(list("abcde"), matrix))
        store.delete(["b", "d", "z", "b"])
        store.delete([])
        assert ids_of(store.scan(["id"])) == ["a", "c", "e"]
        assert sorted(store.known()["id"].to_pylist()) == ["a", "c", "e"]
        assert store.rows(["b"]).num_rows == 0
        assert {hit.id for hit in store.search(matrix[1:2], 5)[0]} == {"a", "c", "e"}
        assert len(store) == 3

    def test_many_ids(self, store):
        """Thousands of rows are written, asked for and deleted at once."""
        ids = [f"/photos/it's {number}.jpg" for number in range(5000)]
        store.write(rows(ids, vectors(5000)))
        assert store.rows(ids[:4000]).num_rows == 4000
        store.delete(ids[500:])
        assert ids_of(store.scan(["id"])) == sorted(ids[:500])

    @pytest.mark.parametrize(
        ("faulty", "reason"),
        [
            (lambda good: pa.concat_tables([good, good.slice(0, 1)]), "twice"),
            (lambda good: good.set_column(0, "id", pa.array([None, "y"])), "id"),
            (lambda good: good.drop_columns(["sha256"]), "sha256"),
            (lambda good: good.append_column("color", pa.array(["red", "blue"])), "color"),
            (lambda good: rows(["x", "y"], np.ones((2, 9))), "9"),
            (lambda good: rows(["x", "y"], [np.ones(8), np.full(8, np.nan)]), "y"),
            (lambda good: rows(["x", "y"], [np.ones(8), np.zeros(8)]), "y"),
            (lambda good: rows(["x", "y"], [np.ones(8), None]), "y"),
        ],
        ids=["id-twice", "id-missing", "column-missing", "column-unknown", "dimensions", "nan", "zero", "nothing"],
    )
    def test_all_rows_or_none(self, store, faulty, reason):
        """Rows of which one cannot be stored are refused in words, and none of them is written."""
        store.write(rows(["x"], np.ones((1, 8)), width=7))
        with pytest.raises(StoreError, match=reason):
            store.write(faulty(rows(["x", "y"], 2 * np.ones((2, 8)), width=8)))
        assert [(row["id"], row["width"]) for row in contents(store)] == [("x", 7)]

    def test_numbers_that_are_not_finite(self, make_store):
        """NaN and infinity are missing values in every store."""
        store = make_store(own=OWN)
        numbers = [float("nan"), float("inf"), -float("inf"), None, 1.5]
        store.write(rows(list("abcde"), vectors(5), OWN, time_s=numbers, Quality=numbers))
        assert [row["Quality"] for row in contents(store)] == [row["time_s"] for row in contents(store)]
        assert [row["Quality"] for row in contents(store)] == [None, None, None, None, 1.5]
        assert ids_of(store.scan(["id"], parse("Quality > 0 or not Quality > 0", store.columns))) == ["e"]

    def test_no_rows(self, store):
        """Nothing can be written, too."""
        store.write(store.schema.empty_table())
        assert len(store) == 0

    def test_columns_in_another_order(self, store):
        """The order of the columns, and chunks, do not matter."""
        table = rows(["a", "b"], vectors(2), width=[3, 4])
        store.write(pa.concat_tables([table.slice(0, 1), table.slice(1)]).select(table.column_names[::-1]))
        assert [(row["id"], row["width"]) for row in contents(store)] == [("a", 3), ("b", 4)]

    @pytest.mark.parametrize("odd", ODD_IDS, ids=[str(number) for number in range(len(ODD_IDS))])
    def test_odd_ids(self, store, odd):
        """An id is a text, whatever is in it."""
        others = ["a.jpg", "b.jpg"]
        matrix = vectors(3)
        store.write(rows([odd, *others], matrix, width=[1, 2, 3]))
        assert store.rows([odd])["id"].to_pylist() == [odd]
        store.write(rows([odd], matrix[:1], width=5))
        assert {row["id"]: row["width"] for row in contents(store)} == {odd: 5, "a.jpg": 2, "b.jpg": 3}
        assert store.search(matrix[:1], 1, exact=True)[0][0].id == odd
        quoted = "'" + odd.replace("'", "''") + "'"
        for column in ("id", "source"):
            assert ids_of(store.scan(["id"], parse(f"{column} = {quoted}", COLUMNS))) == [odd]
        store.delete([odd])
        assert ids_of(store.scan(["id"])) == others

    def test_an_id_is_the_same_in_no_other_form(self, store):
        """Ids that differ in case, in a last space or in how an accent is composed are different."""
        ids = sorted(["a.jpg", "A.jpg", "a.jpg ", "\u00e9", "e\u0301"])
        store.write(rows(ids, vectors(5)))
        assert ids_of(store.scan(["id"])) == ids

    # Search

    @pytest.mark.parametrize("exact", [True, False])
    def test_cosines_are_those_of_numpy(self, animals, exact):
        """The nearest rows, the nearest first, with numpy's cosines, for queries of any length."""
        matrix, queries = vectors(56), 3 * vectors(5, seed=1)
        truth = cosines(queries, matrix)
        for found, scores in zip(animals.search(queries, 10, exact=exact), truth, strict=True):
            best = np.argsort(-scores)[:10]
            assert [hit.id for hit in found] == [f"row {number}.jpg" for number in best]
            np.testing.assert_allclose([hit.score for hit in found], scores[best], atol=1e-5)

    def test_a_hit_has_its_row(self, animals):
        """A hit has the columns of its row, without the vector."""
        wanted = {row["id"]: row for row in zoo().drop_columns(["embedding"]).to_pylist()}
        for exact in (True, False):
            (hits,) = animals.search(vectors(1), 60, exact=exact)
            assert {hit.id: dict(hit.row) for hit in hits} == wanted

    def test_as_many_hits_as_there_are(self, animals):
        """More hits than rows are not there, and a hit comes once."""
        for exact in (True, False):
            (hits,) = animals.search(vectors(1), 1000, exact=exact)
            assert len({hit.id for hit in hits}) == len(hits) == 56
            assert [len(hits) for hits in animals.search(vectors(3), 1, exact=exact)] == [1, 1, 1]

    def test_no_queries(self, animals):
        """No query has no answer."""
        assert animals.search(np.empty((0, 8), np.float32), 3) == []

    @pytest.mark.parametrize("queries", [np.ones((1, 7)), np.ones(8), np.full((1, 8), np.nan), np.zeros((1, 8))])
    def test_queries_that_are_none(self, animals, queries):
        """A query of another length, one that is not finite and one of zeros are refused."""
        with pytest.raises(StoreError, match="quer"):
            animals.search(queries.astype(np.float32), 3)

    def test_rows_with_errors_are_no_hits(self, animals):
        """A row with an error is never found, whatever it is asked for."""
        animals.write(rows(["bad.jpg"], [None], OWN, error="is no image", width=300))
        animals.write(rows(["row 1.jpg"], vectors(2)[1:], OWN, error="has changed", width=300))
        everything = parse("id is not null", COLUMNS)
        errors = parse("error is not null", COLUMNS)
        for exact in (True, False):
            for where in (None, everything):
                (hits,) = animals.search(vectors(2)[1:], 100, where, exact=exact)
                assert len(hits) == 55
                assert not {"bad.jpg", "row 1.jpg"} & {hit.id for hit in hits}
            assert animals.search(vectors(1), 100, errors, exact=exact) == [[]]
        assert ids_of(animals.scan(["id"], errors)) == ["bad.jpg", "row 1.jpg"]

    @pytest.mark.parametrize("text", CONDITIONS)
    def test_conditions(self, animals, text):
        """A condition, and its contrary, are met by the same rows in every store: SQL's three values."""
        matrix = vectors(56)
        table = zoo().to_pylist()
        for one in (text, f"not ({text})"):
            where = parse(one, animals.columns)
            wanted = sorted(row["id"] for row in table if meets(where, row))
            assert ids_of(animals.scan(["id", "embedding"], where)) == wanted, one
            for exact in (True, False):
                (hits,) = animals.search(matrix[:1], 100, where, exact=exact)
                assert sorted(hit.id for hit in hits) == wanted, one

    def test_conditions_bear_injection(self, animals):
        """A value cannot end its quotes, in no store's language."""
        for value in ODD_IDS:
            quoted = "'" + value.replace("'", "''") + "'"
            for text in (f"label = {quoted}", f"label in ({quoted})"):
                assert ids_of(animals.scan(["id"], parse(text, animals.columns))) == []

    def test_an_index(self, make_store):
        """With an index, new rows are found, replaced ones by their new vector, deleted ones not; filters lose none."""
        store = make_store()
        matrix = vectors(3000)
        ids = [f"{number}" for number in range(3000)]
        store.write(rows(ids, matrix, width=[number % 100 for number in range(3000)]))
        store.build_index()
        truth = np.argsort(-cosines(matrix[:50], matrix))[:, :10]
        found = store.search(matrix[:50], 10)
        same = sum(
            len({ids[n] for n in best} & {hit.id for hit in hits}) for best, hits in zip(truth, found, strict=True)
        )
        assert same >= 0.95 * 500
        for hits, best in zip(store.search(matrix[:50], 10, exact=True), truth, strict=True):
            assert {hit.id for hit in hits} == {ids[number] for number in best}
        where = parse("width = 7", COLUMNS)
        assert {len(hits) for hits in store.search(matrix[:20], 30, where)} == {30}
        new, old = -matrix[0:1], matrix[0:1]
        store.write(rows(["new", "0"], np.concatenate([new, new])))
        assert {hit.id for hit in store.search(new, 2)[0]} == {"new", "0"}
        assert "0" not in {hit.id for hit in store.search(old, 10)[0]}
        store.delete(["new"])
        for _ in range(2):
            assert "new" not in {hit.id for hit in store.search(new, 10)[0]}
            store.build_index()
        assert len(store) == 3000

    # One store, several owners

    def test_opened_again(self, make_store):
        """A store that is closed and opened again is the same, with and without a space; a closed one can be closed."""
        first = make_store(own=OWN)
        first.write(zoo())
        first.close()
        first.close()
        for space in (None, SPACE):
            with make_store(space) as again:
                assert (again.space, dict(again.own)) == (SPACE, dict(OWN))
                assert again.schema.equals(first.schema)
                assert len(again) == 56

    def test_a_store_that_is_not_there(self, make_store):
        """A store that is not there is told, not made."""
        for _ in range(2):
            with pytest.raises(StoreError, match="vitriton search index"):
                make_store(None)

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            (
                Space(model="clip", fingerprint="sha256:fedc", dimensions=8),
                ["dinov2-small", "0123456789abcdef", "clip", "fedc"],
            ),
            (Space(model=SPACE.model, fingerprint=SPACE.fingerprint, dimensions=9), ["8", "9"]),
        ],
        ids=["fingerprint", "dimensions"],
    )
    def test_another_space_is_refused(self, make_store, other, named):
        """Vectors of another space are refused with the names of both, and the store stays as it is."""
        make_store().write(rows(["a"], vectors(1)))
        with pytest.raises(StoreError) as caught:
            make_store(other)
        assert [word for word in named if word not in str(caught.value)] == []
        assert len(make_store()) == 1

    def test_another_name_of_the_model_is_no_other_space(self, make_store):
        """The fingerprint says what the vectors are, not the name of the export."""
        make_store()
        other = Space(model="renamed", fingerprint=SPACE.fingerprint, dimensions=8)
        assert make_store(other).space.model == SPACE.model

    def test_own_columns_that_a_store_lacks(self, make_store):
        """A store keeps the columns that it was made with; others, and other types, are refused."""
        make_store(own={"label": pa.string()})
        assert set(make_store(own={"label": pa.string()}).own) == {"label"}
        for own in ({"color": pa.string()}, {"label": pa.int64()}):
            with pytest.raises(StoreError, match=next(iter(own))):
                make_store(own=own)

    @pytest.mark.parametrize(
        "own",
        [
            {"id": pa.string()},
            {"ID": pa.string()},
            {"embedding": pa.string()},
            {"a": pa.int64(), "A": pa.int64()},
            {"_distance": pa.float64()},
            {"": pa.int64()},
            {'a"; drop table x; --': pa.int64()},
            {"a.b": pa.int64()},
            {"a`b": pa.int64()},
            {"x" * 64: pa.int64()},
            {"tags": pa.list_(pa.string())},
        ],
        ids=str,
    )
    def test_own_columns_that_cannot_be(self, make_store, own):
        """A name that is taken or odd, and a type that is not offered, are refused in words, and nothing is made."""
        with pytest.raises(StoreError, match="column"):
            make_store(own=own)
        with pytest.raises(StoreError, match="vitriton search index"):
            make_store(None)

    def test_removed(self, make_store):
        """A store that is removed is not there, and another can be made in its place."""
        store = make_store()
        store.write(rows(["a"], vectors(1)))
        store.remove()
        with pytest.raises(StoreError, match="vitriton search index"):
            make_store(None)
        other = Space(model="clip", fingerprint="sha256:fedc", dimensions=5)
        again = make_store(other, {"label": pa.string()})
        assert (len(again), again.space, set(again.own)) == (0, other, {"label"})

    def test_several_threads(self, store):
        """Threads write, search and read at the same time."""
        ids = [f"{number}" for number in range(400)]
        matrix = vectors(400)

        def write(start: int) -> None:
            for first in range(start, start + 100, 20):
                store.write(rows(ids[first : first + 20], matrix[first : first + 20]))

        ended = threading.Event()

        def read() -> int:
            for asked in count(1):
                (hits,) = store.search(matrix[:1], 5)
                assert len(hits) in (0, 5)
                assert store.known().num_rows % 20 == 0
                if ended.is_set():
                    return asked
            raise AssertionError

        with ThreadPoolExecutor(6) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            writers = [pool.submit(write, start) for start in range(0, 400, 100)]
            try:
                for writer in writers:
                    writer.result()
            finally:
                ended.set()
            assert all(reader.result() > 0 for reader in readers)
        assert ids_of(store.scan(["id"])) == sorted(ids)

    def test_opened_in_another_process(self, make_store, store_url, subprocesses):
        """Another process sees what this one has written, and this one what the other writes."""
        store = make_store()
        store.write(rows(["a", "b"], vectors(2)))
        if not self.SEVERAL_PROCESSES:
            store.close()
        assert _run("count", store_url) == "2\n"
        assert _run("write", store_url, "other", "3", "10").split() == ["0", "1", "2"]
        if not self.SEVERAL_PROCESSES:
            store = make_store()
        assert len(store) == 32
        assert store.rows(["other 0 1"]).num_rows == 1
        assert len(store.search(vectors(1), 100)[0]) == 32
        assert store.known().num_rows == 32

    def test_two_processes_write(self, make_store, store_url, subprocesses):
        """Two processes that make the store and write at the same time lose nothing and double nothing."""
        if not self.SEVERAL_PROCESSES:
            pytest.skip("one process at a time")
        programs = [_start("write", store_url, name, "10", "50", "shared") for name in ("one", "two")]
        for program in programs:
            assert program.communicate(timeout=300)[0].split() == [str(number) for number in range(10)]
            assert program.returncode == 0
        own = [f"{name} {batch} {number}" for name in ("one", "two") for batch in range(10) for number in range(50)]
        shared = [f"shared {batch} {number}" for batch in range(10) for number in range(50)]
        assert ids_of(make_store().scan(["id"])) == sorted(own + shared)

    @pytest.mark.parametrize("moment", [0.0, 0.3, 0.6, 0.9, 1.3, 1.8])
    def test_a_writer_is_killed(self, make_store, store_url, subprocesses, moment):
        """A process that is killed while it writes leaves each batch whole or not at all, and all that were written."""
        program = _start("replace", store_url)
        assert program.stdout is not None
        with program, closing(program.stdout):
            for _ in range(4):
                assert program.stdout.readline()
            begun = time.monotonic()
            told = int(program.stdout.readline())
            time.sleep(moment * (time.monotonic() - begun))  # into the next batch, or the index behind it
            os.kill(program.pid, signal.SIGKILL)
            told = max([told, *map(int, program.stdout.read().split())])
        store = make_store(None)
        found = {(row["bytes"], row["width"]) for row in contents(store)}
        assert found in ({(told, told)}, {(told + 1, told + 1)})
        assert len(store) == store.known().num_rows == _REPLACED
        assert len(store.search(vectors(1), 1000)[0]) == _REPLACED
        store.write(rows([f"{number}" for number in range(_REPLACED)], vectors(_REPLACED), width=0))
        store.build_index()
        assert {row["width"] for row in contents(store)} == {0}

    def test_conditions_that_name_no_column(self, animals):
        """A condition is read with the columns of the store."""
        with pytest.raises(WhereError, match="color"):
            parse("color = 'red'", animals.columns)


_REPLACED = 300  # rows of the process that is killed


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _run(*arguments: str) -> str:
    with _start(*arguments) as program:
        printed = program.communicate(timeout=300)[0]
    assert program.returncode == 0
    return printed


def _main(task: str, url: str, *arguments: str) -> None:
    """Runs a task and prints what it has done.

    Args:
        task: `count` prints the number of rows. `write` writes BATCHES of ROWS rows with a NAME, and as many
            with SHARED, which other processes write, too. `replace` replaces the same rows again and again,
            and brings the index up to date after every other time.
        url: the URL of the store.
        arguments: NAME BATCHES ROWS [SHARED].
    """
    if task == "count":
        with open_store(url) as store:
            print(len(store))
        return
    with open_store(url, SPACE) as store:
        if task == "write":
            name, batches, size, *shared = arguments
            for batch in range(int(batches)):
                ids = [f"{one} {batch} {number}" for one in (name, *shared) for number in range(int(size))]
                store.write(rows(ids, vectors(len(ids))))
                print(batch, flush=True)
            return
        for batch in count():
            ids = [f"{number}" for number in range(_REPLACED)]
            store.write(rows(ids, vectors(_REPLACED, seed=batch), bytes=batch, width=batch))
            if batch % 2:
                store.build_index()
            print(batch, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
