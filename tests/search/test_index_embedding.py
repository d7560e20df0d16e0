"""What becomes of an index run whose server or store fails: faults that a real one does not have on demand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from search.indexing import png
from search.memory_store import MemoryStore
from vitriton import ContractMismatch, Unavailable
from vitriton._call.results import Result
from vitriton._console.signals import Signals
from vitriton_search.index import rows as module
from vitriton_search.index.embedding import Indexing, IndexTally
from vitriton_search.index.plan import make_plan
from vitriton_search.index.scan import look_at
from vitriton_search.stores.store import StoreError

MOST = 1_000_000


class Client:
    """Answers with the number of each image, until it fails.

    Attributes:
        fingerprints: the fingerprints that it tells, one after the other; the last one stays.
        fails_after: the number of answers before the server is gone.
        vector: the function that makes the vector of a number.
    """

    def __init__(self, fingerprints=("space-1",), fails_after=1000, vector=lambda number: np.full(4, number + 1.0)):
        self.fingerprints = list(fingerprints)
        self.fails_after = fails_after
        self.vector = vector

    def describe(self, timeout_s=None):
        fingerprint = self.fingerprints.pop(0) if len(self.fingerprints) > 1 else self.fingerprints[0]
        return SimpleNamespace(fingerprint=fingerprint)

    def stream(self, images, *, on_error):
        assert on_error == "return"
        for number, _ in enumerate(images):
            if number == self.fails_after:
                raise Unavailable("the server is gone")
            yield Result(number, "", self.vector(number).astype(np.float32))


@pytest.fixture
def images(tmp_path):
    """Ten images, of which the last one cannot be read."""
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(png((number, 1, 1)))
    return look_at([f"{tmp_path}/{number}.png" for number in range(10)])


@pytest.fixture
def indexing(monkeypatch):
    """Makes what writes to a store, in batches of three rows."""
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    with Signals() as signals:
        yield lambda store: Indexing(store, IndexTally(), signals, lambda *, failed: None, MOST)


def numbers(store):
    """The images that have a row."""
    return sorted(int(name.rpartition("/")[2].removesuffix(".png")) for name in store.known()["id"].to_pylist())


def test_all(images, indexing):
    """Vectors and errors come to the rows of their images."""
    store = MemoryStore()
    indexing(store).embed(Client(), images)
    rows = store.rows([image.id for image in images]).to_pylist()
    assert [row["embedding"] and row["embedding"][0] for row in rows] == [*range(1, 10), None]
    assert rows[-1]["error"] == "it cannot be read: No such file or directory"
    assert all(row["sha256"] for row in rows[:-1])


def test_the_server_fails(images, indexing):
    """What it has answered is written."""
    store = MemoryStore()
    with pytest.raises(Unavailable, match="the server is gone"):
        indexing(store).embed(Client(fails_after=5), images)
    assert numbers(store) == [0, 1, 2, 3, 4]


def test_another_model_during_the_run(images, indexing):
    """Vectors since the last confirmed batch may be from either model: they are not written."""
    store = MemoryStore()
    with pytest.raises(ContractMismatch, match="the export of tiny on the server changed during the run"):
        indexing(store).embed(Client(["space-1", "space-2"]), images)
    assert numbers(store) == [0, 1, 2]


def test_the_server_fails_and_has_another_model(images, indexing):
    """The first error is told, and nothing is mixed."""
    store = MemoryStore()
    with pytest.raises(Unavailable):
        indexing(store).embed(Client(["space-1", "space-2"], fails_after=5), images)
    assert numbers(store) == [0, 1, 2]


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (lambda number: np.zeros(4), "its vector has no direction"),
        (lambda number: np.array([1, np.nan, 1, 1]), "its vector has no direction"),
        (lambda number: np.array([1, np.inf, 1, 1]), "its vector has no direction"),
        (lambda number: np.ones(5), "the model returned no vector of 4 numbers"),
    ],
)
def test_vectors_that_are_none(images, indexing, vector, reason):
    """They become errors, as a store could not compare them."""
    store = MemoryStore()
    indexing(store).embed(Client(vector=vector), images[:1])
    (row,) = store.rows([images[0].id]).to_pylist()
    assert row["embedding"] is None
    assert row["error"].startswith(reason)


def test_the_store_fails(images, indexing):
    """Its error is told, and the batches before it stay."""

    class Full(MemoryStore):
        def write(self, rows):
            if self.writes:
                raise StoreError("the disk is full")
            super().write(rows)

    store = Full()
    with pytest.raises(StoreError, match="the disk is full"):
        indexing(store).embed(Client(), images)
    assert numbers(store) == [0, 1, 2]


def test_rows_that_are_gone_when_they_are_copied(images, indexing):
    """Another process may have pruned them: the images are embedded."""
    store = MemoryStore()
    indexing(store).embed(Client(), images[:4])
    known = store.known()
    moved = [image._replace(id=image.id.replace(".png", "")) for image in images[:4]]
    for image in moved:
        Path(image.id).write_bytes(png((int(image.id[-1]), 1, 1)))
    plan = make_plan(look_at(image.id for image in moved), known, ())
    assert len(plan.alike) == 4
    store.delete([images[1].id, images[2].id])
    others = indexing(store).copy(plan)
    assert [image.id[-1] for image in others] == ["1", "2"]
    assert store.rows([moved[3].id])["embedding"].to_pylist() == [[4.0] * 4]


def test_images_of_one_size_are_told_apart(tmp_path, indexing):
    """A row is copied for the same content alone."""
    store = MemoryStore()
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    first.write_bytes(b"aaaa")
    second.write_bytes(b"bbbb")
    indexing(store).embed(Client(), look_at([str(first)]))
    plan = make_plan(look_at([str(second)]), store.known(), ())
    assert [image.id for image in indexing(store).copy(plan)] == [str(second)]
    assert len(store) == 1
