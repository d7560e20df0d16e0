"""`vitriton search index` brings every kind of store to the same rows, with a real Triton."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from search.indexing import color_of, index, png, rows, summary
from typer.testing import CliRunner
from vitriton.cli import app

NOWHERE = "localhost:9"  # nothing listens there
OLD_S = 1_600_000_000


@pytest.fixture(params=["postgres", "qdrant", "qdrant-edge"])
def store(request, tmp_path) -> str:
    """The URL of a store that is not there yet."""
    if request.param == "qdrant-edge":
        return f"qdrant-edge:{tmp_path}/store"
    return str(request.getfixturevalue(request.param).url())


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder with ten images and a bad one, and the current folder above it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        write(folder / f"{number}.png", png(color_of(number)))
    write(folder / "bad.png", b"nonsense")
    return folder


def write(path: Path, data: bytes, time_s: int = OLD_S) -> None:
    path.write_bytes(data)
    os.utime(path, (time_s, time_s))


def counts(document):
    names = ("images", "unchanged", "embedded", "reused", "failed", "gone", "rows")
    return tuple(document[name] for name in names)


def test_every_store_has_the_rows_of_a_folder(triton, photos, store, tmp_path):
    """What is new, has changed, has moved or is gone is told as with LanceDB, whose rows are the same to the bit."""
    (tmp_path / "labels.csv").write_text("path,label,stars\nphotos/1.png,one,1\nphotos/2.png,two,2\n")
    given = ("photos", "--columns", "labels.csv", "--json")

    def both(address: str, *more: object) -> dict:
        """Indexes the folder into the store and into a LanceDB folder."""
        other = summary(index(address, *given, *more, "--store", "other.lance"), exit_code=3)
        document = summary(index(address, *given, *more, "--store", store), exit_code=3)
        assert counts(document) == counts(other)
        assert rows(store) == rows("other.lance")
        return document

    assert counts(both(triton, "--model", "tiny")) == (11, 0, 10, 0, 1, 0, 11)
    assert counts(both(NOWHERE)) == (11, 11, 0, 0, 1, 0, 11)
    (photos / "1.png").rename(photos / "moved.png")
    write(photos / "2.png", png((9, 9, 9)), OLD_S + 1)
    (photos / "3.png").unlink()
    assert counts(both(triton, "--prune")) == (10, 8, 1, 1, 1, 2, 10)
    found = rows(store)
    assert found[f"{photos}/moved.png"]["label"] == "one"
    assert found[f"{photos}/2.png"]["embedding"] == [9, 9, 9, 8]
    asked = CliRunner().invoke(
        app, ["search", "query", f"id:{photos}/4.png", "-k", "2", "--json", "--store", store, "--where", "width = 8"]
    )
    assert asked.exit_code == 0, asked.output
    assert len([json.loads(line) for line in asked.stdout.splitlines()]) == 2


def test_another_model_is_refused(triton, photos, store):
    """The store knows the space of its vectors; --rebuild makes it anew."""
    index(triton, "photos", "--model", "tiny", "--store", store)
    before = rows(store)
    write(photos / "new.png", png((9, 9, 9)))
    result = index(triton, "photos", "--model", "other", "--store", store)
    assert result.exit_code == 1
    assert "holds vectors of tiny (4 numbers, fingerprint space-1), and those of other" in result.stderr
    assert rows(store) == before
    given = ("photos", "--model", "other", "--store", store, "--rebuild", "--json")
    rebuilt = summary(index(triton, *given), exit_code=3)
    assert (rebuilt["embedded"], rebuilt["rows"], rebuilt["fingerprint"]) == (11, 12, "space-2")


def test_outputs_of_vitriton_embed(photos, store):
    """They are taken one after the other, and again."""
    said = {"model": "tiny", "fingerprint": "space-1", "pool": "true", "shape": "[4]"}
    schema = pa.schema([("source", pa.string()), ("embedding", pa.list_(pa.float32(), 4))], metadata=said)
    for number in (1, 2):
        table = pa.table([[f"photos/{number}.png"], [[number, 1, 0, 0]]], schema=schema)
        pq.write_table(table, f"{number}.parquet")
    given = ("1.parquet", "2.parquet", "--store", store, "--json")
    assert summary(index(NOWHERE, *given))["reused"] == 2
    assert summary(index(NOWHERE, *given))["unchanged"] == 2


def test_a_store_that_cannot_be_reached(photos):
    """The error names it without its password."""
    for url in ("postgresql://me:secret@127.0.0.1:1/photos", "http://127.0.0.1:1/photos"):
        result = index(NOWHERE, "photos", "--model", "tiny", "--store", url)
        assert result.exit_code == 1
        assert "127.0.0.1:1" in result.stderr
        assert "secret" not in result.stderr
