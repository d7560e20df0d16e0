"""LanceDB as a store: the contract, and what only it has."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from search.store_contract import SPACE, StoreContract, cosines, rows, vectors
from vitriton_search.stores import open_store
from vitriton_search.stores.lance import LanceStore
from vitriton_search.stores.store import COLUMNS, Space, StoreError
from vitriton_search.stores.where import parse

SMALL = Space(model="m", fingerprint="f", dimensions=16)


@pytest.fixture
def store_url(tmp_path) -> str:
    return str(tmp_path / "photos.lance")


class TestLance(StoreContract):
    """A LanceDB database in a folder."""


def test_a_store_that_another_process_has_just_made(store_url):
    """It is opened, although it is empty."""
    made, opened = (LanceStore.create(store_url, SPACE, {}) for _ in range(2))
    made.write(rows(["a"], vectors(1)))
    assert len(opened) == 1


def _disk(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def test_an_approximate_index(store_url):
    """A large store has an index, which finds what comparing with all rows finds, also with conditions and new rows."""
    number = 30_000
    matrix = vectors(number, dimensions=16)
    ids = [f"{one}" for one in range(number)]
    store = open_store(store_url, SMALL)
    for start in range(0, number, 10_000):
        part = slice(start, start + 10_000)
        store.write(rows(ids[part], matrix[part], width=[one % 1000 for one in range(start, start + 10_000)]))
    store.write(rows(["bad.jpg"], np.zeros((1, 16)), error="is no image"))
    assert not store.has_index
    store.build_index()
    assert store.has_index
    queries = vectors(100, dimensions=16, seed=0)[:50] + 0.01
    truth = np.argsort(-cosines(queries, matrix))[:, :10]
    found = store.search(queries, 10)
    same = sum(len({ids[n] for n in best} & {hit.id for hit in hits}) for best, hits in zip(truth, found, strict=True))
    assert same >= 0.98 * 500
    for hits, query in zip(found, queries, strict=True):
        scores = cosines(query[None], matrix[[int(hit.id) for hit in hits]])[0]
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-5)
    for text, most in (("width = 7", 30), ("width < 300", 100), ("id in ('5', '29999')", 2)):
        where = parse(text, COLUMNS)
        exact = store.search(queries[:10], most, where, exact=True)
        approximate = store.search(queries[:10], most, where)
        assert {len(hits) for hits in approximate} == {most}
        same = sum(len({a.id for a in one} & {b.id for b in two}) for one, two in zip(exact, approximate, strict=True))
        assert same >= 0.95 * 10 * most
    new = -matrix[:1]
    store.write(rows(["new", "0"], np.concatenate([new, new])))
    assert {hit.id for hit in store.search(new, 2)[0]} == {"new", "0"}
    store.build_index()
    assert {hit.id for hit in store.search(new, 2)[0]} == {"new", "0"}
    assert len(store.search(queries[:1], 100)[0]) == 100


def test_small_writes_take_bounded_files(store_url):
    """Hundreds of small writes leave no more files than a few dozen, and what was replaced does not stay."""
    store = open_store(store_url, SPACE)
    for batch in range(220):
        store.write(rows([f"{batch} {number}" for number in range(10)], vectors(10, seed=batch)))
    assert len(list(Path(store_url, "rows.lance", "data").iterdir())) < 440
    store.build_index()
    assert store._table.stats()["fragment_stats"]["num_fragments"] < 10
    assert len(store) == 2200


def test_files_of_a_writer_that_was_killed(store_url):
    """They belong to no version, and the next time that files are joined, they are removed, however young they are."""
    with open_store(store_url, SPACE) as store:
        store.write(rows(["a", "b"], vectors(2)))
        data = Path(store_url, "rows.lance", "data")
        left = data / f"{uuid.uuid4()}.lance"
        left.write_bytes(next(data.iterdir()).read_bytes())
        store.write(rows(["c"], vectors(1)))
        store.build_index()
        assert not left.exists()
        assert len(store) == len(store.rows(["a", "b", "c"])) == 3


@pytest.mark.parametrize("moment_s", [0.0, 0.02, 0.1])
def test_killed_while_it_makes_the_store(store_url, subprocesses, moment_s):
    """A process that is killed while it makes a store leaves none, or one that can be used."""
    _killed(
        "import vitriton_search.stores.lance\n"
        "from search.store_contract import SPACE; from vitriton_search.stores import open_store\n"
        f"print(flush=True); open_store({store_url!r}, SPACE); sys.stdin.readline()",
        moment_s,
    )
    with open_store(store_url, SPACE) as store:
        store.write(rows(["a"], vectors(1)))
        assert len(store) == 1


@pytest.mark.long
@pytest.mark.parametrize("moment_s", [0.0, 0.2, 0.4, 0.8, 1.6])
def test_killed_while_it_makes_the_index(store_url, subprocesses, moment_s):
    """A process that is killed while it makes the index leaves the rows, and the index is made the next time."""
    _killed(
        "from search.store_contract import SPACE, rows, vectors; from vitriton_search.stores import open_store\n"
        f"store = open_store({store_url!r}, SPACE)\n"
        "store.write(rows([f'{number}' for number in range(25_000)], vectors(25_000)))\n"
        "print(flush=True); store.build_index(); sys.stdin.readline()",
        moment_s,
    )
    with open_store(store_url) as store:
        queries = vectors(20)
        exact = store.search(queries, 10, exact=True)
        for _ in range(2):
            assert len(store) == 25_000
            found = store.search(queries, 10)
            same = sum(len({a.id for a in one} & {b.id for b in two}) for one, two in zip(exact, found, strict=True))
            assert same >= 0.95 * 200
            store.build_index()
            assert store.has_index


def _killed(program: str, moment_s: float) -> None:
    """Runs a program, and kills it some seconds after it has printed a line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", f"import sys\n{program}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline()
        time.sleep(moment_s)
        process.kill()


def test_a_store_without_the_right_to_write(store_url):
    """A store can be read without the right to write to it, and says so when it cannot be written."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    open_store(store_url, SPACE).write(rows(["a"], vectors(1)))
    folders = [Path(store_url), *(path for path in Path(store_url).rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        store = open_store(store_url)
        assert len(store.search(vectors(1), 5)[0]) == 1
        with pytest.raises(StoreError, match="ermission"):
            store.write(rows(["b"], vectors(1)))
    finally:
        for folder in folders:
            folder.chmod(0o755)
