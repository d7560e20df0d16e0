"""PostgreSQL with pgvector."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psycopg
import pytest
from search.store_contract import SPACE, StoreContract, contents, cosines, ids_of, rows, vectors
from support.index_run import BATCHES, IDS, SIZE, VECTORS
from vitriton_search.stores import open_store
from vitriton_search.stores import postgres as module
from vitriton_search.stores.notes import noted
from vitriton_search.stores.store import COLUMNS, Space, StoreError
from vitriton_search.stores.where import parse


class TestPostgres(StoreContract):
    """What every store does."""

    @pytest.fixture
    def store_url(self, postgres) -> str:
        return postgres.url()


def test_a_server_that_is_killed_loses_nothing(postgres, index_run):
    """A run whose server dies ends with what to do; the next one goes on, and the store is that of one run."""
    url = postgres.url()
    with index_run(url) as program:
        for _ in range(BATCHES // 3):  # it is killed somewhere in the next batch
            assert program.stdout.readline()
            print(file=program.stdin, flush=True)
        postgres.kill()
        printed, error = program.communicate(timeout=120)
    assert program.returncode == 1
    assert "give the command again: it goes on where it stopped" in error
    assert error.count("\n") == 1
    postgres.start()
    written = BATCHES // 3 - 1 + printed.count("written")
    with index_run(url) as program:
        printed, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    known = int(printed.splitlines()[0].split()[1])
    assert known in (written * SIZE, (written + 1) * SIZE)  # the last one may have been committed unsaid
    with open_store(url) as store:
        found = contents(store)
    assert [row["id"] for row in found] == sorted(IDS)
    stored = {row["id"]: row["embedding"] for row in found}
    assert [stored[one] for one in IDS] == VECTORS.tolist()


def test_a_store_outlives_its_server(postgres):
    """A store that was open while its server went away fails in words, and works when the server is there again."""
    with open_store(postgres.url(), SPACE) as store:
        store.write(rows(["a"], vectors(1)))
        with ThreadPoolExecutor(4) as pool:  # some connections
            assert list(pool.map(lambda _: len(store), range(20))) == [1] * 20
        postgres.kill()
        try:
            for _ in range(6):
                with pytest.raises(StoreError, match=r"give the command again|see that the server runs"):
                    store.write(rows(["b"], vectors(1)))
        finally:
            postgres.start()
        store.write(rows(["b"], vectors(1)))
        assert len(store) == 2


def _told(error: BaseException | None) -> str:
    """What an error and those that it came of say."""
    if error is None:
        return ""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{error} {error!r} {_told(before)}"


def test_passwords_are_not_told(postgres):
    """Neither by a refusal, nor by a URL that cannot be read, nor anywhere in a traceback."""
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'right'")
        (path,) = connection.execute("SHOW hba_file").fetchone()
        rules = Path(path).read_text()
        Path(path).write_text(f"local all guest scram-sha-256\n{rules}")
        connection.execute("SELECT pg_reload_conf()")
    with pytest.raises(StoreError, match="password authentication failed") as refused:
        open_store(postgres.url(user="guest:secret%23wrong"))
    with pytest.raises(StoreError, match="cannot be read as a URL") as unreadable:
        open_store("postgresql://guest:secret%zz@localhost/db")
    for url in ("postgresql://guest@127.0.0.1:1/db?password=secret", "postgresql://guest:secret@127.0.0.1:1/db"):
        with pytest.raises(StoreError, match="see that the server runs") as unreachable:
            open_store(url)
        assert "secret" not in _told(unreachable.value)
    assert "secret" not in _told(refused.value) + _told(unreadable.value)


def test_a_role_that_may_not(postgres):
    """What the server does not allow is told in its words."""
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE reader LOGIN")
    with pytest.raises(StoreError, match="permission denied for schema public"):
        open_store(postgres.url(user="reader"), SPACE)


def test_tables_of_others(postgres):
    """A table that is there already is left alone; a table in a schema has the name of both."""
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE others (id text)")
        connection.execute("CREATE TABLE commented (id text)")
        connection.execute("COMMENT ON TABLE commented IS 'the photos'")
        connection.execute('CREATE SCHEMA "My photos"')
    for table in ("others", "commented"):
        with pytest.raises(StoreError, match="was not made by `vitriton search`"):
            open_store(postgres.url(table), SPACE)
    with open_store(postgres.url("My%20photos.2025"), SPACE) as store:
        store.write(rows(["a"], vectors(1)))
        assert len(store) == 1
        store.remove()
    with pytest.raises(StoreError, match='schema "nowhere" does not exist'):
        open_store(postgres.url("nowhere.photos"), SPACE)


def test_a_database_without_pgvector(postgres):
    """A table that came without the extension, as from a dump, is told what is missing."""
    url = postgres.url("photos").replace("/postgres?", "/bare?")
    with postgres.connect() as connection:
        connection.execute("CREATE DATABASE bare")
    with psycopg.connect(url.partition("&table")[0], autocommit=True) as connection:
        connection.execute("CREATE TABLE photos (id text)")
        connection.execute(f"COMMENT ON TABLE photos IS '{json.dumps(noted(SPACE, {}))}'")
    with open_store(url) as store, pytest.raises(StoreError, match=r"no pgvector; install 0\.8 or later"):
        len(store)


def test_a_newer_version(postgres):
    """A store of a version to come is refused with what to do."""
    url = postgres.url("newer")
    open_store(url, SPACE).close()
    with postgres.connect() as connection:
        connection.execute("COMMENT ON TABLE newer IS '{\"vitriton_search\": 99}'")
    with pytest.raises(StoreError, match="update vitriton-search"):
        open_store(url)


# Few rows are compared faster without the index, and PostgreSQL knows that.
_SEEKING = "&options=-cenable_seqscan%3Doff"


def _recall(store, matrix, queries, k=10):
    truth = np.argsort(-cosines(queries, matrix))[:, :k]
    found = [{hit.id for hit in hits} for hits in store.search(queries, k)]
    return np.mean([len({f"{n}" for n in best} & hits) / k for best, hits in zip(truth, found, strict=True)])


@pytest.mark.parametrize("dimensions", [32, 2100])
def test_an_index(postgres, monkeypatch, dimensions):
    """Above a size an index is asked, over 2,000 numbers one in float16; scores stay exact, and filters lose none."""
    number = 3000 if dimensions < 2000 else 600
    monkeypatch.setattr(module, "_INDEXED_ROWS", number)
    space = Space(model="m", fingerprint="f", dimensions=dimensions)
    matrix, queries = np.split(vectors(number + 20, dimensions=dimensions), [number])
    with open_store(postgres.url(more=_SEEKING), space) as store:
        ids = [f"{n}" for n in range(number)]
        widths = [n // 5 for n in range(number)]
        for part in range(0, number, 300):
            store.write(rows(ids[part : part + 300], matrix[part : part + 300], width=widths[part : part + 300]))
        assert not store.has_index
        store.build_index()
        store.build_index()
        assert store.has_index
        assert _recall(store, matrix, queries) >= 0.98
        (hits,) = store.search(queries[:1], 10)
        expected = cosines(queries[:1], matrix[[int(hit.id) for hit in hits]])[0]
        np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)
        for text, wanted in (("width = 7", 5), ("width < 100", 40), ("width < 0", 0)):
            found = store.search(queries, 40, parse(text, COLUMNS))
            assert [len(hits) for hits in found] == [wanted] * 20
        (everything,) = store.search(queries[:1], number)
        assert len(everything) == number


def test_an_index_is_used(postgres, monkeypatch):
    """The statement of an approximate search asks the index, and that of an exact one does not."""
    monkeypatch.setattr(module, "_INDEXED_ROWS", 3000)
    asked = []
    plan = psycopg.Cursor.execute

    def explained(self, query, *arguments, **options):
        if not isinstance(query, str) and "LIMIT" in (text := query.as_string(self)):
            asked.append("\n".join(row[0] for row in self.connection.execute(f"EXPLAIN {text}", *arguments)))
        return plan(self, query, *arguments, **options)

    with open_store(postgres.url(more=_SEEKING), SPACE) as store:
        store.write(rows([f"{n}" for n in range(3000)], vectors(3000)))
        store.build_index()
        monkeypatch.setattr(psycopg.Cursor, "execute", explained)
        store.search(vectors(1), 5)
        store.search(vectors(1), 5, exact=True)
    assert ["Index Scan using" in one for one in asked] == [True, False]


def test_vectors_without_an_index(postgres, monkeypatch):
    """Over 4,000 numbers all rows are compared; over 16,000 there is no store."""
    monkeypatch.setattr(module, "_INDEXED_ROWS", 10)
    with open_store(postgres.url(), Space(model="m", fingerprint="f", dimensions=4100)) as store:
        store.write(rows([f"{n}" for n in range(10)], vectors(10, dimensions=4100)))
        store.build_index()
        assert not store.has_index
        assert store.search(vectors(1, dimensions=4100), 1)[0][0].id == "0"
    with pytest.raises(StoreError, match="16000 numbers, and these have 17000"):
        open_store(postgres.url(), Space(model="m", fingerprint="f", dimensions=17_000))


def test_a_scan_is_of_one_moment(postgres):
    """Rows that are written during a scan are not in it, and do not wait for it."""
    with open_store(postgres.url(), SPACE) as store:
        store.write(rows([f"{n}" for n in range(5000)], vectors(5000)))
        batches = store.scan(["id"])
        first = next(batches)
        store.write(rows(["new"], vectors(1)))
        store.delete(["0"])
        assert ids_of([first, *batches]) == sorted(f"{n}" for n in range(5000))
        for _ in range(30):  # one that is left early gives its connection back
            next(store.scan(["id"]))
        assert len(store) == 5000
