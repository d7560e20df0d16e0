"""Qdrant: its engine in this process, and its REST interface, which qdrant_server.py speaks on the same engine."""

import numpy as np
import pytest
from search.store_contract import SPACE, StoreContract, contents, cosines, ids_of, rows, vectors
from support.index_run import BATCHES, IDS, SIZE, VECTORS
from vitriton_search.stores import open_store
from vitriton_search.stores.qdrant.filters import translate
from vitriton_search.stores.store import COLUMNS, Space, StoreError
from vitriton_search.stores.where import parse


class TestQdrantServer(StoreContract):
    """What every store does, through qdrant-client."""

    @pytest.fixture
    def store_url(self, qdrant) -> str:
        return qdrant.url()


class TestQdrantEdge(StoreContract):
    """What every store does, in this process."""

    SEVERAL_PROCESSES = False

    @pytest.fixture
    def store_url(self, tmp_path) -> str:
        return f"qdrant-edge:{tmp_path}/photos"

    @pytest.fixture
    def make_store(self, store_url):
        """Opens the store, and closes it before it is opened once more."""
        opened = []

        def make(space=SPACE, own={}):  # noqa: B006
            for store in opened:
                store.close()
            opened.append(open_store(store_url, space, own))
            return opened[-1]

        yield make
        for store in opened:
            store.close()


def test_a_server_that_is_killed_loses_nothing(qdrant, index_run):
    """A run whose server dies ends with what to do; the next one goes on, and the store is that of one run."""
    url = qdrant.url()
    with index_run(url) as program:
        for _ in range(BATCHES // 3):  # it is killed somewhere in the next batch
            assert program.stdout.readline()
            print(file=program.stdin, flush=True)
        qdrant.kill()
        printed, error = program.communicate(timeout=120)
    assert program.returncode == 1
    assert "give the command again: it goes on where it stopped" in error
    assert error.count("\n") == 1
    qdrant.start()
    written = BATCHES // 3 - 1 + printed.count("written")
    with index_run(url) as program:
        printed, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    assert written * SIZE <= int(printed.splitlines()[0].split()[1]) <= (written + 1) * SIZE
    with open_store(url) as store:
        found = contents(store)
    assert [row["id"] for row in found] == sorted(IDS)
    stored = {row["id"]: row["embedding"] for row in found}
    assert [stored[one] for one in IDS] == VECTORS.tolist()


def test_an_api_key(locked_qdrant, monkeypatch):
    """The key is in the place of the password or in QDRANT_API_KEY, and is not told."""
    url = locked_qdrant.url("photos")
    with pytest.raises(StoreError, match="set QDRANT_API_KEY"):
        open_store(url, SPACE)
    with pytest.warns(UserWarning, match="insecure"), pytest.raises(StoreError, match="refuses the API key") as caught:
        open_store(url.replace("//", "//:secret@"), SPACE)
    assert "secret" not in f"{caught.value} {caught.value.__cause__!r}"
    with pytest.warns(UserWarning, match="insecure"):
        open_store(url.replace("//", "//:let-me-in@"), SPACE).close()
    monkeypatch.setenv("QDRANT_API_KEY", "let-me-in")
    with pytest.warns(UserWarning, match="insecure"):
        assert len(open_store(url)) == 0


@pytest.mark.parametrize("url", ["http://localhost:6333", "http://localhost:6333/", "http://localhost:port/photos"])
def test_no_collection(url):
    """A URL without a collection is refused with the form of one."""
    with pytest.raises(StoreError, match="http://HOST:6333/COLLECTION"):
        open_store(url)


def test_no_server():
    """A server that is not there is told as such."""
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/photos does not answer.*refused"):
        open_store("http://127.0.0.1:1/photos")


def test_collections_of_others(qdrant):
    """A collection that is there already is left alone, and so is one of a version to come."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(url=qdrant.url("others").removesuffix("/others"), check_compatibility=False)
    vector = models.VectorParams(size=8, distance=models.Distance.COSINE)
    client.create_collection("others", vectors_config={"embedding": vector})
    client.create_collection("newer", vectors_config={"embedding": vector}, metadata={"vitriton_search": 99})
    client.close()
    with pytest.raises(StoreError, match="was not made by `vitriton search`"):
        open_store(qdrant.url("others"), SPACE)
    with pytest.raises(StoreError, match="update vitriton-search"):
        open_store(qdrant.url("newer"), SPACE)


def test_one_process_at_a_time(tmp_path):
    """The engine is open once; a second time is refused."""
    url = f"qdrant-edge:{tmp_path}/photos"
    with open_store(url, SPACE) as store:
        store.write(rows(["a"], vectors(1)))
        with pytest.raises(StoreError, match="open in another process"):
            open_store(url)
    with open_store(url) as store:
        assert len(store) == 1


def test_a_folder_of_others(tmp_path):
    """A folder with other files does not become a store."""
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(StoreError, match="was not made by `vitriton search`"):
        open_store(f"qdrant-edge:{tmp_path}", SPACE)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("dimensions", [1, 384, 1024, 4096])
def test_vectors_come_back_to_the_bit(tmp_path, dimensions):
    """Although Qdrant keeps vectors of length one."""
    random = np.random.default_rng(0)
    matrix = random.standard_normal((200, dimensions)) * 10.0 ** random.integers(-6, 7, (200, 1))
    matrix = matrix.astype(np.float32)
    space = Space(model="m", fingerprint="f", dimensions=dimensions)
    with open_store(f"qdrant-edge:{tmp_path}/photos", space) as store:
        store.write(rows([f"{n:03}" for n in range(200)], matrix))
        found = np.array([row["embedding"] for row in contents(store)], np.float32)
    np.testing.assert_array_equal(found, matrix)


def test_rows_that_are_looked_at(qdrant):
    """Where Qdrant lets more rows through, as many are asked for as it takes."""
    number = 3000
    matrix = vectors(number)
    with open_store(qdrant.url(), SPACE) as store:
        ids = [f"/photos/{n % 100}/{n}.jpg" for n in range(number)]
        for part in range(0, number, 1000):
            store.write(rows(ids[part : part + 1000], matrix[part : part + 1000]))
        for text in ("source like '/photos/7%/%7.jpg'", "source > '/photos/98' and id like '%'"):
            where = parse(text, COLUMNS)
            assert not translate(where).whole
            wanted = ids_of(store.scan(["id"], where))
            assert 0 < len(wanted) < 400
            (hits,) = store.search(matrix[:1], 1000, where)
            assert sorted(hit.id for hit in hits) == wanted
            order = [ids[n] for n in np.argsort(-cosines(matrix[:1], matrix)[0]) if ids[n] in set(wanted)]
            (hits,) = store.search(matrix[:1], 10, where, exact=True)
            assert [hit.id for hit in hits] == order[:10]


def test_many_alternatives(qdrant):
    """Qdrant reads a condition that is nested so deep, and no deeper."""
    with open_store(qdrant.url(), SPACE) as store:
        store.write(rows([f"{n}" for n in range(300)], vectors(300), width=list(range(300))))
        text = " or ".join(f"width = {n}" for n in range(200))
        assert len(ids_of(store.scan(["id"], parse(text, COLUMNS)))) == 200
        assert len(ids_of(store.scan(["id"], parse(f"not ({text})", COLUMNS)))) == 100


@pytest.mark.long
def test_an_index(tmp_path):
    """Above a size of its own the engine has an index, with the recall of the others."""
    number, dimensions = 50_000, 64
    matrix, queries = np.split(vectors(number + 50, dimensions=dimensions), [number])
    space = Space(model="m", fingerprint="f", dimensions=dimensions)
    with open_store(f"qdrant-edge:{tmp_path}/photos", space) as store:
        for part in range(0, number, 5000):
            ids = [f"{n}" for n in range(part, part + 5000)]
            store.write(rows(ids, matrix[part : part + 5000], width=[n // 5 for n in range(part, part + 5000)]))
        store.build_index()
        assert store.has_index
        truth = np.argsort(-cosines(queries, matrix))[:, :10]
        found = [{int(hit.id) for hit in hits} for hits in store.search(queries, 10)]
        assert np.mean([len({*best} & hits) / 10 for best, hits in zip(truth.tolist(), found, strict=True)]) >= 0.98
        assert [len(hits) for hits in store.search(queries, 10, parse("width = 7", COLUMNS))] == [5] * 50
