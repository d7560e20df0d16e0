"""Rows on their way to a store: batches, copies, and columns of the user's own."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from search.memory_store import MemoryStore
from vitriton._console.signals import Signals, Stopped
from vitriton._errors import InvalidOption
from vitriton_search.index import rows as module
from vitriton_search.index.own import read_columns
from vitriton_search.index.rows import Batches, copies_of, table_of

VECTOR = np.arange(1, 5, dtype=np.float32)


def columns(name, **others):
    return {"id": name, "source": name, **others}


@pytest.fixture
def signals():
    with Signals() as watched:
        yield watched


def test_batches(signals, monkeypatch):
    """Rows are written when there are many, and at the end; an error has no vector."""
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    store = MemoryStore()
    batches = Batches(store, signals)
    for number in range(7):
        batches.add(columns(f"/{number}", error="bad" if number == 4 else None), None if number == 4 else VECTOR)
    assert store.writes == [3, 3]
    batches.write()
    batches.write()
    assert store.writes == [3, 3, 1]
    found = {row["id"]: row["embedding"] for row in store.rows([f"/{number}" for number in range(7)]).to_pylist()}
    assert found == {f"/{number}": None if number == 4 else VECTOR.tolist() for number in range(7)}


def test_batches_are_also_a_matter_of_time(signals, monkeypatch):
    """A slow model's vectors are not kept for long."""
    monkeypatch.setattr(module, "BATCH_EVERY_S", 0.0)
    store = MemoryStore()
    batches = Batches(store, signals)
    for number in range(3):
        batches.add(columns(f"/{number}"), VECTOR)
    assert store.writes == [1, 1, 1]


def test_a_batch_that_is_not_confirmed(signals):
    """Nothing of it is written, and it waits."""
    store, answers = MemoryStore(), [RuntimeError("another model"), None]

    def confirm():
        if (answer := answers.pop(0)) is not None:
            raise answer

    batches = Batches(store, signals, confirm)
    batches.add(columns("/a"), VECTOR)
    with pytest.raises(RuntimeError):
        batches.write()
    assert len(store) == 0
    batches.write()
    assert len(store) == 1


def test_ctrl_c_waits_for_a_batch(signals):
    """A batch is whole, and then the run ends."""
    import signal

    class Slow(MemoryStore):
        def write(self, rows):
            signal.raise_signal(signal.SIGINT)
            super().write(rows)

    store = Slow()
    batches = Batches(store, signals)
    batches.add(columns("/a"), VECTOR)
    with pytest.raises(Stopped):
        batches.write()
    assert len(store) == 1


def test_a_changed_file_keeps_the_users_columns(signals):
    """A new vector is no reason to forget a label."""
    store = MemoryStore(own={"label": pa.string()})
    first = table_of([(columns("/a"), VECTOR), (columns("/b"), VECTOR)], store)
    store.write(first.set_column(first.schema.get_field_index("label"), "label", pa.array(["cat", None])))
    batches = Batches(store, signals)
    for name in ("/c", "/b", "/a"):
        batches.add(columns(name, width=7), 2 * VECTOR)
    batches.write()
    found = {row["id"]: (row["label"], row["width"]) for row in store.rows(["/a", "/b", "/c"]).to_pylist()}
    assert found == {"/a": ("cat", 7), "/b": (None, 7), "/c": (None, 7)}


def test_copies():
    """A copy has the place of its own file, and all else of the row that it is made from."""
    store = MemoryStore()
    there = table_of([(columns("/a", width=1), VECTOR), (columns("/b", error="bad"), None)], store)
    wanted = [(columns("/x", bytes=5), "/b"), (columns("/y", bytes=6), "/a"), (columns("/z", bytes=7), "/a")]
    made = copies_of(there, wanted)
    assert made.schema.equals(store.schema)
    assert [(row["id"], row["bytes"], row["width"], row["error"], row["embedding"]) for row in made.to_pylist()] == [
        ("/x", 5, None, "bad", None),
        ("/y", 6, 1, None, VECTOR.tolist()),
        ("/z", 7, 1, None, VECTOR.tolist()),
    ]


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """A list of labels in CSV, as a file in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "labels.csv"
    path.write_text('path,label,stars,sold\na.jpg,"cat, black",3,true\n/b.jpg,,4.5,\n')
    return path


def own_of(store, *ids):
    return [tuple(row[name] for name in store.own) for row in store.rows(list(ids)).to_pylist()]


def test_own_columns(labels, tmp_path, signals):
    """Values go to the rows of the paths, and lines without a row are counted; again, nothing is written."""
    own = read_columns(labels)
    assert own.types == {"label": pa.string(), "stars": pa.float64(), "sold": pa.bool_()}
    store = MemoryStore(own=own.types)
    store.write(table_of([(columns(f"{tmp_path}/a.jpg"), VECTOR), (columns("/c.jpg"), VECTOR)], store))
    assert own.write(store, signals) == 1
    assert own_of(store, f"{tmp_path}/a.jpg", "/c.jpg") == [("cat, black", 3.0, True), (None, None, None)]
    writes = len(store.writes)
    assert own.write(store, signals) == 1
    assert len(store.writes) == writes


def test_own_columns_in_json_lines(tmp_path, signals):
    """Ids are taken as they are, and dates are dates."""
    path = tmp_path / "labels.jsonl"
    lines = [{"id": "https://a/b.jpg", "day": "2025-01-02T03:04:05", "n": 1}, {"id": "/x", "day": None, "n": None}]
    path.write_text("\n".join(map(json.dumps, lines)))
    own = read_columns(path)
    assert own.types == {"day": pa.timestamp("us"), "n": pa.int64()}
    store = MemoryStore(own=own.types)
    store.write(table_of([(columns("https://a/b.jpg"), VECTOR)], store))
    assert own.write(store, signals) == 1
    ((day, number),) = own_of(store, "https://a/b.jpg")
    assert (day.isoformat(), number) == ("2025-01-02T03:04:05", 1)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "path,x\n/a,1\n", "must end in .csv or .jsonl"),
        ("a.csv", "file,x\n/a,1\n", "has neither a column id nor path; it has file, x"),
        ("a.csv", "path,x\n/a,1\n/a,2\n", "has several lines for one image"),
        ("a.csv", "path,id\n/a,/b\n", "has no column besides id"),
        ("a.csv", "path,x,x\n/a,1,2\n", "has several columns of one name"),
        ("a.csv", "path,x\n,1\n", "has rows without text in column path"),
        ("a.csv", 'path,x\n"/a,1\n/b', "cannot be read: "),
        ("a.jsonl", "nonsense\n", "cannot be read: "),
        ("a.csv", "", "cannot be read: "),
        ("b.csv", None, "b.csv does not exist"),
    ],
)
def test_lists_that_are_refused(tmp_path, name, text, reason):
    """The message says which file, what is wrong with it, and what to do."""
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidOption) as error:
        read_columns(path)
    assert reason in str(error.value)
    assert str(path) in str(error.value)
