"""`vitriton search index --every`, with a real Triton, LanceDB and films: what is embedded and what is not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from client.conftest import write_model
from search.indexing import color_of, index, png, rows, summary
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_search.stores import open_store

films = pytest.importorskip("support.films")

NOWHERE = "localhost:9"  # nothing listens there
OLD_S = 1_600_000_000


@pytest.fixture(scope="module")
def address(subprocesses, tmp_path_factory):
    """The address of a Triton with `tiny`."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1")
    with TritonServer(repository) as running:
        yield running.grpc_address


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a film of 10 seconds and a photo in films/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "a.mp4", 250)
    (tmp_path / "films" / "1.png").write_bytes(png(color_of(1)))
    return tmp_path


def film(path: Path, frames: int, time_s: int = OLD_S) -> None:
    films.write(path, frames)
    os.utime(path, (time_s, time_s))


def counts(document):
    return {name: document[name] for name in ("images", "unchanged", "embedded", "reused", "failed", "gone")}


def expected(**given):
    return {"images": 0, "unchanged": 0, "embedded": 0, "reused": 0, "failed": 0, "gone": 0, **given}


def times(store, source):
    """The times of a film's frames, and the distance that is noted."""
    found = [row for row in rows(store).values() if row["source"] == str(source) and row["error"] is None]
    assert all(row["id"] == f"{source}#t={row['time_s']:g}" for row in found)
    noted = {row["every_s"] for row in found} - {None}
    assert len(noted) <= 1
    return sorted(row["time_s"] for row in found), next(iter(noted), None)


def test_a_film(address, folder):
    """Each frame has a row with its time, and what is known of the file; again, no server is asked."""
    result = index(address, "films", "--every", "2s", "--model", "tiny")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("6 images embedded into photos.lance in ")
    path = folder / "films" / "a.mp4"
    assert times("photos.lance", path) == ([0, 2, 4, 6, 8], 2.0)
    found = rows("photos.lance")
    row = found[f"{path}#t=4"]
    assert (row["width"], row["height"], row["bytes"]) == (films.WIDTH, films.HEIGHT, path.stat().st_size)
    assert row["modified"].timestamp() == OLD_S
    assert len({row["sha256"] for row in found.values()}) == 2
    assert [name for name, row in found.items() if row["every_s"]] == [f"{path}#t=0"]
    again = summary(index(NOWHERE, "films", "--every", "2s", "--json"))
    assert counts(again) == expected(images=6, unchanged=6)
    assert rows("photos.lance") == found


def test_the_frames_are_those_of_vitriton_embed(address, folder):
    """Their vectors, too; those of its file are taken, and not embedded again when the film is indexed."""
    given = ["embed", "--url", address, "--model", "tiny", "films", "--every", "2s", "-o", "out.parquet"]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert counts(summary(index(NOWHERE, "out.parquet", "--json"))) == expected(images=6, reused=6)
    assert counts(summary(index(NOWHERE, "out.parquet", "--json"))) == expected(images=6, unchanged=6)
    document = summary(index(address, "films", "--every", "2s", "--json"))
    assert counts(document) == expected(images=6, unchanged=1, reused=5)
    assert counts(summary(index(NOWHERE, "films", "--every", "2s", "--json"))) == expected(images=6, unchanged=6)
    index(address, "films", "--every", "2s", "--model", "tiny", "--store", "other.lance")
    sizes = ("width", "height")
    assert rows("other.lance", *sizes) == rows("photos.lance", *sizes)


def test_without_every(address, folder):
    """Films are passed over, with a note that says how they are taken, and their rows stay."""
    index(address, "films", "--every", "2s", "--model", "tiny")
    result = index(NOWHERE, "films", "--prune")
    assert result.exit_code == 0
    assert ".mp4: 1; frames of videos are embedded with --every 1s" in result.stderr
    assert len(rows("photos.lance")) == 6


def test_another_distance(address, folder):
    """Frames that are there are not embedded again, and those that are none any more are removed."""
    path = folder / "films" / "a.mp4"
    index(address, path, "--every", "2s", "--model", "tiny")
    document = summary(index(address, path, "--every", "1s", "--json"))
    assert counts(document) == expected(images=10, embedded=5, reused=5)
    assert times("photos.lance", path) == (list(range(10)), 1.0)
    document = summary(index(address, path, "--every", "5s", "--json"))
    assert counts(document) == expected(images=2, reused=2)
    assert times("photos.lance", path) == ([0, 5], 5.0)


def test_moved_copied_touched_and_changed(address, folder):
    """A film is known by its content: only the one that has changed is embedded."""
    old = folder / "films" / "a.mp4"
    index(address, "films", "--every", "2s", "--model", "tiny")
    before = rows("photos.lance")
    moved, copied = folder / "films" / "moved.mp4", folder / "films" / "copied.mp4"
    shutil.copy2(old, copied)
    old.rename(moved)
    os.utime(moved, (OLD_S + 7, OLD_S + 7))
    document = summary(index(NOWHERE, "films", "--every", "2s", "--prune", "--json"))
    assert counts(document) == expected(images=11, unchanged=1, reused=10, gone=5)
    assert times("photos.lance", moved) == times("photos.lance", copied) == ([0, 2, 4, 6, 8], 2.0)
    found = rows("photos.lance")
    assert found[f"{moved}#t=4"]["embedding"] == before[f"{old}#t=4"]["embedding"]
    assert found[f"{moved}#t=4"]["modified"].timestamp() == OLD_S + 7
    os.utime(moved, (OLD_S + 8, OLD_S + 8))
    assert counts(summary(index(NOWHERE, moved, "--every", "2s", "--json"))) == expected(images=5, reused=5)
    assert counts(summary(index(NOWHERE, moved, "--every", "2s", "--json"))) == expected(images=5, unchanged=5)
    film(moved, 100)
    assert counts(summary(index(address, moved, "--every", "2s", "--json"))) == expected(images=2, embedded=2)
    assert times("photos.lance", moved) == ([0, 2], 2.0)


def test_copies_in_one_run(address, folder):
    """Of files with one content, one is embedded, films and photos alike."""
    for name in ("b", "c"):
        shutil.copy2(folder / "films" / "a.mp4", folder / "films" / f"{name}.mp4")
        shutil.copy2(folder / "films" / "1.png", folder / "films" / f"{name}.png")
    document = summary(index(address, "films", "--every", "2s", "--model", "tiny", "--json"))
    assert counts(document) == expected(images=18, embedded=6, reused=12)
    found = rows("photos.lance")
    assert len(found) == 18
    for second in range(0, 10, 2):
        vectors = [found[f"{folder}/films/{name}.mp4#t={second}"]["embedding"] for name in "abc"]
        assert vectors[0] == vectors[1] == vectors[2]
    assert counts(summary(index(NOWHERE, "films", "--every", "2s", "--json"))) == expected(images=18, unchanged=18)


def test_bad_films(address, folder):
    """What can be read of them is there; they are told, and asked again if they change, or if it is wanted."""
    whole = (folder / "films" / "a.mp4").read_bytes()
    shutil.move(folder / "films" / "a.mp4", folder / "whole.mp4")
    films.write(folder / "films" / "cut.mkv", 250)
    data = (folder / "films" / "cut.mkv").read_bytes()
    (folder / "films" / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    (folder / "films" / "bad.mp4").write_bytes(whole[:500])
    (folder / "films" / "none.mp4").symlink_to("nowhere")
    result = index(address, "films", "--every", "2s", "--model", "tiny")
    assert result.exit_code == 3
    assert f"{folder}/films/bad.mp4: " in result.stderr
    assert f"{folder}/films/cut.mkv: the file ends too early, after " in result.stderr
    assert f"{folder}/films/none.mp4: it cannot be read: No such file or directory" in result.stderr
    some = len(times("photos.lance", folder / "films" / "cut.mkv")[0])
    assert 2 <= some <= 4
    (folder / "films" / "none.mp4").unlink()
    again = summary(index(NOWHERE, "films", "--every", "2s", "--prune", "--json"), exit_code=3)
    assert counts(again) == expected(images=some + 3, unchanged=some + 3, failed=2, gone=1)
    retried = summary(index(address, "films", "--every", "2s", "--retry-errors", "--json"), exit_code=3)
    assert counts(retried) == expected(images=some + 3, unchanged=1, reused=some, failed=2)
    (folder / "films" / "cut.mkv").write_bytes(data)
    mended = summary(index(address, "films", "--every", "2s", "--json"), exit_code=3)
    assert counts(mended) == expected(images=7, unchanged=2, embedded=5, failed=1)
    assert times("photos.lance", folder / "films" / "cut.mkv") == ([0, 2, 4, 6, 8], 2.0)
    assert f"{folder}/films/cut.mkv" not in rows("photos.lance")


def test_a_run_that_did_not_end(address, folder):
    """Without the note, a film is read again, and the frames that are there are not embedded again."""
    path = folder / "films" / "a.mp4"
    index(address, path, "--every", "2s", "--model", "tiny")
    before = rows("photos.lance")
    with open_store("photos.lance") as store:
        store.delete([f"{path}#t=6", f"{path}#t=8"])
        first = store.rows([f"{path}#t=0"])
        place = first.column_names.index("every_s")
        store.write(first.set_column(place, first.schema.field("every_s"), pa.nulls(1, pa.float64())))
    document = summary(index(address, path, "--every", "2s", "--json"))
    assert counts(document) == expected(images=5, embedded=2, reused=3)
    assert rows("photos.lance") == before


def test_answers_and_columns_and_exports(address, folder):
    """Near frames are one answer. A film's own columns are those of its frames, and exports have their times."""
    path = folder / "films" / "a.mp4"
    (folder / "labels.csv").write_text("path,label\nfilms/a.mp4,a film\nfilms/1.png,a photo\n")
    document = summary(index(address, "films", "--every", "2s", "--model", "tiny", "--columns", "labels.csv", "--json"))
    assert document["unassigned"] == 0
    assert {row["label"] for row in rows("photos.lance").values() if row["time_s"] is not None} == {"a film"}
    asked = CliRunner().invoke(app, ["search", "query", f"id:{path}#t=4", "--json", "--join", "5"])
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [answer["span"] for answer in answers if answer["source"] == str(path)] == [
        {"start_s": 0.0, "end_s": 8.0, "frames": 4}
    ]
    assert CliRunner().invoke(app, ["search", "export", "-o", "out.parquet"]).exit_code == 0
    assert summary(index(NOWHERE, "out.parquet", "--store", "other.lance", "--json"))["reused"] == 6
    names = [name for name in rows("photos.lance") if name != "label"]
    assert sorted(rows("other.lance")) == sorted(names)
    for name, row in rows("other.lance").items():
        assert np.array_equal(row["embedding"], rows("photos.lance")[name]["embedding"])
        assert row["time_s"] == rows("photos.lance")[name]["time_s"]


@pytest.mark.parametrize("every", ["0s", "x", "-1s"])
def test_every_must_be_a_time(folder, every):
    """It is a wrong option, and nothing is made."""
    result = index(NOWHERE, "films", f"--every={every}")
    assert result.exit_code == 2
    assert "--every is " in result.stderr
    assert not (folder / "photos.lance").exists()
