"""What a store's URL names, and what is said when it names none."""

import subprocess
import sys

import lancedb
import pyarrow as pa
import pytest
from search.store_contract import SPACE, rows, vectors
from vitriton_search.stores import open_store
from vitriton_search.stores.address import shown
from vitriton_search.stores.store import StoreError


@pytest.mark.parametrize("url", ["", "s3://bucket/photos.lance", "mysql://host/db", "file:///photos"])
def test_no_store_has_such_a_url(url):
    """Other URLs are refused with those that there are."""
    with pytest.raises(StoreError, match="postgresql://"):
        open_store(url, SPACE)


@pytest.mark.parametrize("name", ["photos", "photos.lance", "a:b", "with space", "über", "a/b/c.lance"])
def test_a_folder(tmp_path, monkeypatch, name):
    """A path names a folder, also relative, with folders above it that are not there yet."""
    monkeypatch.chdir(tmp_path)
    with open_store(name, SPACE) as store:
        store.write(rows(["a"], vectors(1)))
    assert len(open_store(str(tmp_path / name))) == 1


def test_a_file(tmp_path):
    """A file is no store, and stays."""
    (tmp_path / "photo.jpg").write_text("photo")
    for space in (None, SPACE):
        with pytest.raises(StoreError, match=r"photo\.jpg is a file"):
            open_store(str(tmp_path / "photo.jpg"), space)
    assert (tmp_path / "photo.jpg").read_text() == "photo"


def test_a_folder_of_photos(tmp_path):
    """A folder of other files does not become a store by mistake."""
    (tmp_path / "photo.jpg").write_text("photo")
    with pytest.raises(StoreError, match="there is no store"):
        open_store(str(tmp_path))
    with pytest.raises(StoreError, match=r"other files \(photo.jpg\)"):
        open_store(str(tmp_path), SPACE)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_database_with_other_tables(tmp_path):
    """The store is one table of a database, and leaves the others alone."""
    other = lancedb.connect(tmp_path).create_table("mine", pa.table({"x": [1]}))
    with open_store(str(tmp_path), SPACE) as store:
        store.write(rows(["a"], vectors(1)))
        store.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.lance"]
    assert other.count_rows() == 1


def test_a_table_of_something_else(tmp_path):
    """A table that is called like the store's is not taken for it."""
    lancedb.connect(tmp_path).create_table("rows", pa.table({"x": [1]}))
    for space in (None, SPACE):
        with pytest.raises(StoreError, match="something else"):
            open_store(str(tmp_path), space)


@pytest.mark.parametrize(
    ("version", "says"), [("99", r"newer version.*update vitriton-search"), ("1", r"earlier version.*index again")]
)
def test_another_version(tmp_path, version, says):
    """A store of a version to come, or of one that is gone, is refused with what to do."""
    schema = open_store(str(tmp_path / "this"), SPACE).schema
    noted = {"vitriton_search": version, "model": "m", "fingerprint": "f"}
    lancedb.connect(tmp_path / "other").create_table("rows", schema=schema.with_metadata(noted))
    with pytest.raises(StoreError, match=says):
        open_store(str(tmp_path / "other"))


def test_a_folder_that_cannot_be_made(tmp_path):
    """The reason of the operating system is told."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        open_store(str(tmp_path / "file" / "x.lance"), SPACE)


def test_a_damaged_store(tmp_path):
    """A store whose files are damaged is an error that names it, not a traceback of a library."""
    url = tmp_path / "x.lance"
    open_store(str(url), SPACE).write(rows(["a"], vectors(1)))
    for path in (url / "rows.lance" / "_versions").glob("*.manifest"):
        path.write_bytes(b"no manifest")
    with pytest.raises(StoreError, match=r"x\.lance"):
        open_store(str(url))


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("postgresql://me:secret@host/db", "psycopg", "postgres"),
        ("https://host:6333/photos", "qdrant_client", "qdrant"),
    ],
)
def test_a_library_that_is_missing(monkeypatch, url, library, extra):
    """A kind whose library is not installed says how to install it, and shows no password."""
    for module in (library, f"vitriton_search.stores.{extra}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StoreError, match=rf"pip install 'vitriton-search\[{extra}\]'") as caught:
        open_store(url, SPACE)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "visible"),
    [
        ("./photos.lance", "./photos.lance"),
        ("a@b:c", "a@b:c"),
        ("https://host:6333/photos", "https://host:6333/photos"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:secret@host:5432/db?table=t", "postgresql://me:***@host:5432/db?table=t"),
        ("postgresql://me:se/c@r:et@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
    ],
)
def test_passwords_are_not_shown(url, visible):
    """A URL is shown without its password."""
    assert shown(url) == visible


def test_the_import_is_light(subprocesses):
    """The module of the stores imports no store; LanceDB takes a second."""
    program = "import sys, vitriton_search.stores; print('lancedb' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
