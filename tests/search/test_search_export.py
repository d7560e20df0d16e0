"""The vectors of a store in files."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from search.store_contract import SPACE, rows, vectors
from vitriton import __version__
from vitriton_search.answers import export
from vitriton_search.answers.export import write_vectors
from vitriton_search.stores import open_store
from vitriton_search.stores.store import COLUMNS
from vitriton_search.stores.where import parse

IDS = ["a 'quoted'.jpg", "Straße/🦜.jpg", "film.mp4#t=1.5", *(f"{n}.jpg" for n in range(97))]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_ROWS", 13)
    with open_store(str(tmp_path / "photos.lance"), SPACE) as store:
        store.write(rows([*IDS, "bad.jpg"], [*vectors(100), None], error=[*[None] * 100, "truncated"]))
        yield store


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(path):
    """The index, source and vector of each row."""
    if path.suffix == ".parquet":
        return [(row["index"], row["source"], row["embedding"]) for row in pq.read_table(path).to_pylist()]
    if path.suffix == ".jsonl":
        return [(row["index"], row["source"], row["embedding"]) for row in lines(path)]
    sources = lines(path.with_suffix(".sources.jsonl"))
    return [(row["index"], row["source"], vector.tolist()) for row, vector in zip(sources, np.load(path), strict=True)]


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_every_vector_is_in_the_file(store, tmp_path, suffix):
    """To the bit, under its id; a row with an error is not. Nothing else is left in the folder."""
    path = tmp_path / "out" / f"x{suffix}"
    path.parent.mkdir()
    path.write_text("old")
    assert write_vectors(store, path) == 100
    found = read(path)
    assert [index for index, _, _ in found] == list(range(100))
    written = dict(zip(IDS, vectors(100), strict=True))
    assert {source for _, source, _ in found} == set(IDS)
    for _, source, vector in found:
        np.testing.assert_array_equal(np.asarray(vector, np.float32), written[source])
    names = {path.name, "x.sources.jsonl"} if suffix == ".npy" else {path.name}
    assert {one.name for one in path.parent.iterdir()} == names


def test_a_parquet_file_says_what_it_holds(store, tmp_path):
    write_vectors(store, tmp_path / "x.parquet")
    assert {key.decode(): value.decode() for key, value in pq.read_schema(tmp_path / "x.parquet").metadata.items()} == {
        "model": SPACE.model,
        "fingerprint": SPACE.fingerprint,
        "pool": "true",
        "shape": "[8]",
        "vitriton_version": __version__,
    }


def test_lines_have_the_fingerprint(store, tmp_path):
    write_vectors(store, tmp_path / "x.jsonl")
    write_vectors(store, tmp_path / "x.npy")
    for path in (tmp_path / "x.jsonl", tmp_path / "x.sources.jsonl"):
        assert {row["fingerprint"] for row in lines(path)} == {SPACE.fingerprint}


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_some_rows_or_none(store, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    assert write_vectors(store, path, parse("id like '%7.jpg'", COLUMNS)) == 9
    assert {source for _, source, _ in read(path)} == {f"{n}.jpg" for n in range(7, 97, 10)}
    assert write_vectors(store, path, parse("width > 3", COLUMNS)) == 0
    assert read(path) == []


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_a_failure_leaves_the_old_file(store, tmp_path, monkeypatch, suffix):
    """The store fails in the middle."""
    path = tmp_path / "out" / f"x{suffix}"
    path.parent.mkdir()
    write_vectors(store, path, parse("id = '1.jpg'", COLUMNS))
    before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    real = list(store.scan(["source", "embedding"]))

    def fails(columns, where):
        if columns == ["time_s"]:
            return
        yield from real
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "scan", fails)
    with pytest.raises(OSError, match="No space left"):
        write_vectors(store, path)
    assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == before


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_frames_of_videos(tmp_path, suffix):
    """They have the video as their source, and their time; other rows have none."""
    with open_store(str(tmp_path / "films.lance"), SPACE) as store:
        names, times = ["/a.mp4#t=0", "/a.mp4#t=1.5", "/b.jpg"], [0.0, 1.5, None]
        store.write(rows(names, vectors(3), source=["/a.mp4", "/a.mp4", "/b.jpg"], time_s=times))
        assert write_vectors(store, tmp_path / f"x{suffix}") == 3
    if suffix == ".parquet":
        found = pq.read_table(tmp_path / "x.parquet")
        assert found.column_names == ["index", "source", "time_s", "embedding"]
        said = found.to_pylist()
    else:
        said = lines(tmp_path / f"x{'.sources' if suffix == '.npy' else ''}{'.jsonl'}")
        assert [("time_s" in row) == (row["source"] == "/a.mp4") for row in said] == [True] * 3
    assert sorted((row["source"], row.get("time_s")) for row in said)[:2] == [("/a.mp4", 0.0), ("/a.mp4", 1.5)]
    assert [row.get("time_s") for row in said if row["source"] == "/b.jpg"] == [None]
