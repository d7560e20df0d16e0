"""`vitriton search index` with a real Triton and LanceDB: what is embedded, what is not, and what it says."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from client.conftest import write_model
from search.indexing import arguments, color_of, index, png, rows, summary, vector
from search.test_index_scan import ODD_NAMES
from support.commands import MAIN
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_search.sources import source_of

NOWHERE = "localhost:9"  # nothing listens there
OLD_S = 1_600_000_000


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """A Triton with `tiny`, `same` of the same space, and `other` of another."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1")
    write_model(repository, "same_pooled", fingerprint="space-1")
    write_model(repository, "other_pooled", fingerprint="space-2")
    write_model(repository, "nameless_pooled")
    with TritonServer(repository) as running:
        yield running


@pytest.fixture
def address(server):
    return server.grpc_address


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with ten old images in photos/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number in range(10):
        write(tmp_path / "photos" / ("more" if number > 6 else ".") / f"{number}.png", png(color_of(number)))
    return tmp_path


def write(path: Path, data: bytes, time_s: int = OLD_S) -> None:
    path.write_bytes(data)
    os.utime(path, (time_s, time_s))


def counts(document):
    return {name: document[name] for name in ("images", "unchanged", "embedded", "reused", "failed", "gone")}


def test_a_folder(address, folder):
    """Each image has a row with its vector and what is known of its file; again, no server is asked."""
    result = index(address, "photos", "--model", "tiny")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("10 images embedded into photos.lance in ")
    found = rows("photos.lance")
    assert set(found) == {str(path) for path in (folder / "photos").rglob("*.png")}
    row = found[str(folder / "photos" / "3.png")]
    assert row["embedding"] == [*color_of(3), 8]
    assert (row["source"], row["width"], row["height"], row["error"]) == (row["id"], 8, 6, None)
    assert (row["bytes"], row["modified"].timestamp()) == (len(png(color_of(3))), OLD_S)

    again = summary(index(NOWHERE, "photos", "--json"))
    assert counts(again) == {"images": 10, "unchanged": 10, "embedded": 0, "reused": 0, "failed": 0, "gone": 0}
    assert (again["rows"], again["model"], again["fingerprint"]) == (10, "tiny", "space-1")
    assert rows("photos.lance") == found


def test_the_working_folder_does_not_matter(address, folder, monkeypatch):
    """A file is one, however it is named."""
    index(address, "photos", "--model", "tiny")
    monkeypatch.chdir(folder / "photos")
    document = summary(index(NOWHERE, "more/..", ".", "3.png", "--store", "../photos.lance", "--json"))
    assert counts(document) == {"images": 10, "unchanged": 10, "embedded": 0, "reused": 0, "failed": 0, "gone": 0}


def test_new_and_changed(address, folder):
    """Of a folder that has changed, what has changed is embedded, by the model of the store."""
    index(address, "photos", "--model", "tiny")
    write(folder / "photos" / "new.png", png((9, 9, 9)))
    write(folder / "photos" / "3.png", png((5, 5, 5), (7, 7)), OLD_S + 1)
    document = summary(index(address, "photos", "--json"))
    assert counts(document) == {"images": 11, "unchanged": 9, "embedded": 2, "reused": 0, "failed": 0, "gone": 0}
    assert vector("photos.lance", folder / "photos" / "new.png").tolist() == [9, 9, 9, 8]
    assert vector("photos.lance", folder / "photos" / "3.png").tolist() == [5, 5, 5, 7]
    assert rows("photos.lance")[str(folder / "photos" / "3.png")]["width"] == 7


def test_moved_copied_and_touched(address, folder):
    """Their vectors are used again: no server is asked. The row of the old name is told, and --prune removes it."""
    index(address, "photos", "--model", "tiny")
    before = rows("photos.lance")
    photos = folder / "photos"
    (photos / "1.png").rename(photos / "more" / "moved.png")
    shutil.copy(photos / "2.png", photos / "copy.png")
    os.utime(photos / "3.png", (OLD_S + 5, OLD_S + 5))
    result = index(NOWHERE, "photos")
    assert result.exit_code == 0, result.output
    assert "0 images embedded into photos.lance in " in result.stdout
    assert "3 with vectors that were there, 8 unchanged" in result.stdout
    assert "; 1 row of files that are gone kept (--prune removes them)" in result.stdout
    found = rows("photos.lance")
    assert len(found) == 12
    for old, new in (("1.png", "more/moved.png"), ("2.png", "copy.png")):
        row = before[str(photos / old)]
        assert found[str(photos / new)]["embedding"] == row["embedding"]
        assert found[str(photos / new)]["sha256"] == row["sha256"]
    assert found[str(photos / "3.png")]["modified"].timestamp() == OLD_S + 5

    pruned = summary(index(NOWHERE, "photos", "--prune", "--json"))
    assert (counts(pruned)["gone"], pruned["pruned"], pruned["rows"]) == (1, True, 11)
    assert str(photos / "1.png") not in rows("photos.lance")
    assert summary(index(NOWHERE, "photos", "--json"))["gone"] == 0


def test_only_the_folders_that_are_given_are_pruned(address, folder):
    """Of other folders nothing is known, and a file that is there under any name is not gone."""
    (folder / "other").mkdir()
    write(folder / "other" / "a.png", png((1, 2, 3)))
    write(folder / "photos" / ".hidden.png", png((1, 2, 4)))
    index(address, "photos", "other", "photos/.hidden.png", "--model", "tiny")
    shutil.rmtree(folder / "other")
    document = summary(index(NOWHERE, "photos", "--prune", "--json"))
    assert (document["gone"], document["rows"]) == (0, 12)


def test_a_folder_that_has_been_emptied(address, folder):
    """All its rows are gone."""
    index(address, "photos", "--model", "tiny")
    shutil.rmtree(folder / "photos")
    (folder / "photos").mkdir()
    document = summary(index(NOWHERE, "photos", "--prune", "--json"))
    assert (document["images"], document["gone"], document["rows"]) == (0, 10, 0)


def test_bad_files(address, folder):
    """They are told and have rows; a second run asks nothing for them, unless they have changed or it should."""
    photos = folder / "photos"
    write(photos / "bad.png", b"nonsense")
    write(photos / "changed.png", b"other nonsense")
    (photos / "broken.png").symlink_to(photos / "nowhere")
    result = index(address, "photos", "--model", "tiny")
    assert result.exit_code == 3
    assert f"{photos}/bad.png: no image of a known format" in result.stderr
    assert f"{photos}/broken.png: it cannot be read: No such file or directory\n" in result.stderr
    assert "; 3 images could not be embedded" in result.stdout
    found = rows("photos.lance")
    assert found[f"{photos}/bad.png"]["embedding"] is None
    assert found[f"{photos}/bad.png"]["error"].startswith("no image of a known format")
    assert found[f"{photos}/bad.png"]["sha256"]

    (photos / "broken.png").unlink()
    again = summary(index(NOWHERE, "photos", "--json"), exit_code=3)
    assert counts(again) == {"images": 12, "unchanged": 12, "embedded": 0, "reused": 0, "failed": 2, "gone": 1}
    write(photos / "changed.png", png((4, 4, 4)), OLD_S + 1)
    changed = summary(index(address, "photos", "--prune", "--json"), exit_code=3)
    assert counts(changed) == {"images": 12, "unchanged": 11, "embedded": 1, "reused": 0, "failed": 1, "gone": 1}
    assert rows("photos.lance")[f"{photos}/changed.png"]["error"] is None
    retried = summary(index(address, "photos", "--retry-errors", "--json"), exit_code=3)
    assert counts(retried) == {"images": 12, "unchanged": 11, "embedded": 0, "reused": 0, "failed": 1, "gone": 0}


def test_a_vector_without_a_direction(address, folder):
    """It could not be compared with any other, so it is an error."""
    write(folder / "photos" / "zero.png", b"sleep:0")  # the tiny model answers with zeros
    result = index(address, "photos", "--model", "tiny")
    assert result.exit_code == 3
    assert "zero.png: its vector has no direction" in result.stderr


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(address, folder, name):
    """A file may have any name, and is found again, and pruned."""
    path = folder / "photos" / os.fsdecode(name)
    write(path, png((3, 2, 1)))
    assert summary(index(address, "photos", "--model", "tiny", "--json"))["embedded"] == 11
    row = rows("photos.lance")[source_of(str(path))]
    assert row["embedding"] == [3, 2, 1, 8]
    assert summary(index(NOWHERE, "photos", "--json"))["unchanged"] == 11
    path.unlink()
    assert summary(index(NOWHERE, "photos", "--prune", "--json"))["rows"] == 10
    write(path, b"nonsense")
    result = index(address, "photos")
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.stderr


def test_links(address, folder):
    """A link to a file is a file; one to a folder is not followed, unless it is given."""
    photos = folder / "photos"
    (photos / "link.png").symlink_to(photos / "1.png")
    (folder / "outside").mkdir()
    write(folder / "outside" / "a.png", png((8, 8, 8)))
    (photos / "folder").symlink_to(folder / "outside")
    (photos / "circle").symlink_to(photos)
    document = summary(index(address, "photos", "--model", "tiny", "--json"))
    assert (document["images"], document["rows"]) == (11, 11)
    assert vector("photos.lance", photos / "link.png").tolist() == vector("photos.lance", photos / "1.png").tolist()
    assert summary(index(address, "photos/folder", "--json"))["embedded"] == 1
    assert str(photos / "folder" / "a.png") in rows("photos.lance")


def test_no_regular_files(address, folder):
    """A pipe is not waited for."""
    os.mkfifo(folder / "photos" / "pipe.png")
    (folder / "photos" / "zero.png").symlink_to("/dev/zero")
    result = index(address, "photos", "--model", "tiny")
    assert result.exit_code == 3
    assert result.stderr.count(": it is no regular file\n") == 2


def run_as_anybody(*given):
    """Runs the command without root's right to read everything."""
    before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if before and shutil.which("setpriv") is None:
        pytest.skip("root may read everything")
    return subprocess.run([*before, sys.executable, "-c", MAIN, *arguments(*given)], capture_output=True, text=True)


def test_a_folder_that_cannot_be_read(address, folder):
    """Nothing can be said of its images, so nothing is done, and no row is gone."""
    index(address, "photos", "--model", "tiny")
    (folder / "photos" / "more").chmod(0)
    try:
        result = run_as_anybody(NOWHERE, "photos", "--prune")
    finally:
        (folder / "photos" / "more").chmod(0o700)
    assert (result.returncode, result.stdout) == (1, "")
    assert "more cannot be read: Permission denied" in result.stderr
    assert len(rows("photos.lance")) == 10


def test_a_file_that_cannot_be_read(address, folder):
    """It is told; as soon as it can be read, it is, though neither its size nor its time has changed."""
    secret = folder / "photos" / "3.png"
    secret.chmod(0)
    result = run_as_anybody(address, "photos", "--model", "tiny")
    assert result.returncode == 3
    assert f"{secret}: it cannot be read: Permission denied\n" in result.stderr
    assert rows("photos.lance")[str(secret)]["error"] == "it cannot be read: Permission denied"
    secret.chmod(0o600)
    assert summary(index(address, "photos", "--json"))["embedded"] == 1
    assert rows("photos.lance")[str(secret)]["error"] is None


def test_the_store_itself_is_not_indexed(address, folder):
    """A store may lie in the folder whose images it has."""
    store = folder / "photos" / "store.lance"
    index(address, "photos", "--model", "tiny", "--store", store)
    write(store / "thumbnail.png", png((1, 1, 1)))
    assert summary(index(NOWHERE, "photos", "--store", store, "--json"))["images"] == 10


@pytest.fixture
def site(folder):
    """The current folder over HTTP; its URL."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_urls_and_lists(address, folder, site):
    """A URL is asked once; a list has paths and URLs, one a line."""
    good, bad = f"{site}/photos/1.png", f"{site}/nowhere.png"
    (folder / "list").write_text(f"{good}\n{bad}\nphotos/2.png\n\nphotos/nowhere.png\nphotos/2.png\n")
    document = summary(index(address, "--from", "list", "--model", "tiny", "--json"), exit_code=3)
    assert counts(document) == {"images": 4, "unchanged": 0, "embedded": 2, "reused": 0, "failed": 2, "gone": 0}
    found = rows("photos.lance")
    assert found[good]["embedding"] == [*color_of(1), 8]
    assert "404" in found[bad]["error"]
    assert set(found) == {good, bad, f"{folder}/photos/2.png", f"{folder}/photos/nowhere.png"}
    again = summary(index(NOWHERE, good, bad, "photos/2.png", "--json"), exit_code=3)
    assert counts(again) == {"images": 3, "unchanged": 3, "embedded": 0, "reused": 0, "failed": 1, "gone": 0}


def embed(address, *given):
    result = CliRunner().invoke(app, ["embed", "--url", address, "--model", "tiny", *map(str, given)])
    assert result.exit_code in (0, 3), result.output


def test_outputs_of_vitriton_embed(address, folder):
    """Their vectors are taken, and no server is asked; the images are then as if they had been indexed."""
    write(folder / "photos" / "bad.png", b"nonsense")
    embed(address, "photos", "-o", "out.parquet")
    (folder / "photos" / "bad.png").unlink()
    document = summary(index(NOWHERE, "out.parquet", "--json"))
    assert counts(document) == {"images": 10, "unchanged": 0, "embedded": 0, "reused": 10, "failed": 0, "gone": 0}
    taken = rows("photos.lance")
    assert summary(index(NOWHERE, "photos", "out.parquet", "--json"))["unchanged"] == 20
    index(address, "photos", "--model", "tiny", "--store", "other.lance")
    assert rows("other.lance") == taken


def test_an_output_with_files_that_have_changed(address, folder):
    """A vector of an earlier content is not taken; a file that is not there has its name alone."""
    embed(address, "photos", "-o", "out.parquet")
    write(folder / "photos" / "3.png", png((5, 5, 5)), 4_000_000_000)
    (folder / "photos" / "4.png").unlink()
    document = summary(index(NOWHERE, "out.parquet", "--json"))
    assert (document["reused"], document["outdated"]) == (9, 1)
    found = rows("photos.lance")
    assert str(folder / "photos" / "3.png") not in found
    assert found["photos/4.png"]["embedding"] == [*color_of(4), 8]
    assert found["photos/4.png"]["bytes"] is None


def embed_with_ids(address, rows, *given):
    lines = "".join(f"{name},{path}\n" for name, path in rows)
    Path("list.csv").write_text(f"id,path\n{lines}")
    embed(address, "--from", "list.csv", "--id-column", "id", "-o", "out.parquet", *given)


def test_an_output_with_ids(address, folder):
    """An id is the name of its row, also where a file is called like it; a vector that is new replaces the old one."""
    (folder / "7").write_text("a file that is no image")
    (folder / "8").mkdir()
    embed_with_ids(address, [("7", "photos/1.png"), ("8", "photos/2.png"), ("sku 9", "photos/3.png")])
    assert counts(summary(index(NOWHERE, "out.parquet", "--json")))["reused"] == 3
    found = rows("photos.lance")
    assert set(found) == {"7", "8", "sku 9"}
    assert found["7"]["embedding"] == [*color_of(1), 8]
    assert (found["7"]["source"], found["7"]["bytes"], found["7"]["sha256"]) == ("7", None, None)
    again = summary(index(NOWHERE, "out.parquet", "--json"))
    assert counts(again) == {"images": 3, "unchanged": 3, "embedded": 0, "reused": 0, "failed": 0, "gone": 0}
    embed_with_ids(address, [("7", "photos/1.png"), ("8", "photos/5.png")], "--overwrite")
    assert counts(summary(index(NOWHERE, "out.parquet", "--json")))["reused"] == 1
    assert vector("photos.lance", "8").tolist() == [*color_of(5), 8]
    (folder / "labels.csv").write_text("id,label\n8,eight\n007,nobody\n")
    result = index(NOWHERE, "out.parquet", "--store", "labeled.lance", "--columns", "labels.csv")
    assert result.exit_code == 0, result.output
    assert rows("labeled.lance")["8"]["label"] == "eight"


def test_ids_that_repeat(address, folder):
    """The first row of an id is taken, and the others are told."""
    embed_with_ids(address, [("a", "photos/1.png"), ("a", "photos/2.png"), ("b", "photos/3.png")])
    result = index(NOWHERE, "out.parquet")
    assert "; 1 row with the id of an earlier row left out" in result.stdout
    assert vector("photos.lance", "a").tolist() == [*color_of(1), 8]
    assert summary(index(NOWHERE, "out.parquet", "--json"))["repeated"] == 1


def test_copies_in_one_run(address, folder):
    """A content that several new files have is embedded once."""
    for number in range(3):
        shutil.copy2(folder / "photos" / "1.png", folder / "photos" / f"copy {number}.png")
    write(folder / "photos" / "bad.png", b"nonsense")
    write(folder / "photos" / "as bad.png", b"nonsense")
    document = summary(index(address, "photos", "--model", "tiny", "--json"), exit_code=3)
    assert counts(document) == {"images": 15, "unchanged": 0, "embedded": 10, "reused": 3, "failed": 2, "gone": 0}
    for number in range(3):
        assert vector("photos.lance", folder / "photos" / f"copy {number}.png").tolist() == [*color_of(1), 8]
    again = summary(index(NOWHERE, "photos", "--json"), exit_code=3)
    assert counts(again) == {"images": 15, "unchanged": 15, "embedded": 0, "reused": 0, "failed": 2, "gone": 0}


def test_frames_of_a_video(folder):
    """Each has a row with its time; all go with the film."""
    said = {"model": "tiny", "fingerprint": "space-1", "pool": "true", "shape": "[4]"}
    schema = pa.schema(
        [("source", pa.string()), ("time_s", pa.float64()), ("embedding", pa.list_(pa.float32(), 4))], metadata=said
    )
    times = [0.0, 0.5, 10.25, 3600.000001, None]
    sources = ["photos/film.mp4"] * 4 + ["photos/1.png"]
    vectors = [[number + 1.0, 0, 0, 0] for number in range(5)]
    write(folder / "photos" / "film.mp4", b"a film")
    pq.write_table(pa.table([sources, times, vectors], schema=schema), "out.parquet")
    assert summary(index(NOWHERE, "out.parquet", "--json"))["reused"] == 5
    found = rows("photos.lance")
    film, photo = str(folder / "photos" / "film.mp4"), str(folder / "photos" / "1.png")
    assert set(found) == {photo, *(f"{film}#t={time}" for time in ("0", "0.5", "10.25", "3600.000001"))}
    assert (found[f"{film}#t=10.25"]["time_s"], found[f"{film}#t=10.25"]["source"]) == (10.25, film)
    assert found[photo]["sha256"]
    assert summary(index(NOWHERE, photo, "--json"))["unchanged"] == 1
    (folder / "photos" / "film.mp4").unlink()
    for path in (folder / "photos").rglob("*.png"):
        if str(path) != photo:
            path.unlink()
    assert summary(index(NOWHERE, "photos", "--prune", "--json"))["gone"] == 4


def test_outputs_that_are_refused(address, folder):
    """Tokens are no vectors of images, and other files no outputs."""
    embed(address, "photos", "-o", "out.parquet")
    index(address, "photos", "--model", "other")
    result = index(NOWHERE, "out.parquet")
    assert result.exit_code == 1
    assert "space-1" in result.stderr
    assert "space-2" in result.stderr
    assert len(rows("photos.lance")) == 10
    (folder / "broken.parquet").write_bytes(b"nonsense")
    pq.write_table(pa.table({"a": [1]}), folder / "foreign.parquet")
    for name, reason in (
        ("broken.parquet", "cannot be read as Parquet"),
        ("foreign.parquet", "is no output of `vitriton embed`"),
        ("missing.parquet", "missing.parquet does not exist"),
    ):
        result = index(NOWHERE, name)
        assert result.exit_code == 2
        assert reason in result.stderr


def test_another_model(address, folder):
    """Its vectors are refused with both names; one of the same space is welcome, and --rebuild starts again."""
    index(address, "photos", "--model", "tiny")
    before = rows("photos.lance")
    write(folder / "photos" / "new.png", png((9, 9, 9)))
    result = index(address, "photos", "--model", "other")
    assert result.exit_code == 1
    assert "photos.lance holds vectors of tiny (4 numbers, fingerprint space-1)" in result.stderr
    assert "those of other (4 numbers, fingerprint space-2) cannot be compared" in result.stderr
    assert rows("photos.lance") == before
    assert summary(index(address, "photos", "--model", "same", "--json"))["embedded"] == 1
    rebuilt = summary(index(address, "photos", "--model", "other", "--rebuild", "--json"))
    assert (rebuilt["embedded"], rebuilt["rows"], rebuilt["fingerprint"]) == (11, 11, "space-2")


def test_a_rebuild_without_a_server_leaves_the_store(address, folder):
    """Nothing is discarded before the model has answered."""
    index(address, "photos", "--model", "tiny")
    before = rows("photos.lance")
    result = index(NOWHERE, "photos", "--rebuild", "--timeout", "1", "--model", "tiny")
    assert result.exit_code == 1
    assert rows("photos.lance") == before


@pytest.mark.parametrize(
    ("given", "exit_code", "reason"),
    [
        ([], 2, "name images, folders or URLs, or give a list with --from"),
        (["nowhere"], 2, "nowhere does not exist"),
        (["empty"], 2, "empty holds no image"),
        (["data:image/png;base64,AA=="], 2, "a data: URI has no name that a row could have; save the image to a file"),
        (["photos", "--timeout", "0"], 2, "--timeout is 0; it must be a number of seconds above 0"),
        (["photos"], 1, "has several models for images; choose one with --model: nameless, other, same, tiny"),
        (["photos", "--model", "nowhere"], 1, "nowhere"),
        (["photos", "--model", "nameless"], 1, "has no fingerprint; export it with `vitriton export`"),
        (["photos", "--columns", "nowhere.csv"], 2, "nowhere.csv does not exist"),
    ],
)
def test_what_is_refused(address, folder, given, exit_code, reason):
    """The message says what is wrong, and no store is made."""
    (folder / "empty").mkdir()
    result = index(address, *given)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert reason in result.stderr
    assert not (folder / "photos.lance").exists()


def test_no_server(folder):
    """Without a store, the model's space is needed."""
    result = index(NOWHERE, "photos", "--model", "tiny", "--timeout", "1")
    assert result.exit_code == 1
    assert not (folder / "photos.lance").exists()


def test_own_columns(address, folder):
    """They are there with the first run, and follow their list."""
    labels = folder / "labels.csv"
    labels.write_text(
        "path,label,stars\n" + "".join(f"photos/{number}.png,{number}-th,{number}\n" for number in range(7))
    )
    document = summary(index(address, "photos", "--model", "tiny", "--columns", labels, "--json"))
    assert document["unassigned"] == 0
    found = rows("photos.lance")
    assert found[str(folder / "photos" / "3.png")]["stars"] == 3
    assert found[str(folder / "photos" / "more" / "8.png")]["label"] is None
    labels.write_text("path,label\nphotos/3.png,new\nphotos/nowhere.png,x\n")
    result = index(NOWHERE, "photos", "--columns", labels)
    assert f"; 1 line of {labels} belong to no image in the store" in result.stdout
    changed = rows("photos.lance")[str(folder / "photos" / "3.png")]
    assert (changed["label"], changed["stars"]) == ("new", 3)
    assert np.allclose(changed["embedding"], found[str(folder / "photos" / "3.png")]["embedding"])
    labels.write_text("path,more\nphotos/3.png,new\n")
    result = index(NOWHERE, "photos", "--columns", labels)
    assert result.exit_code == 1
    assert "photos.lance has no column 'more', and string is wanted" in result.stderr


def test_quiet(address, folder):
    """Nothing is said of a run that works, nor of bad files, of which the exit code tells."""
    write(folder / "photos" / "bad.png", b"nonsense")
    (folder / "photos" / "notes.txt").write_text("")
    result = index(address, "photos", "--model", "tiny", "--quiet")
    assert (result.exit_code, result.output) == (3, "")


def test_a_list_with_null_characters(address, folder):
    """As `find -print0` makes: it is one name, which no file can have, and the error says so."""
    (folder / "list").write_bytes(b"photos/1.png\0photos/2.png\0")
    for _ in range(2):
        result = index(address, "--from", "list", "--model", "tiny")
        assert result.exit_code == 3
        assert result.stderr.splitlines()[-1].endswith("2.png%00: it cannot be read: embedded null byte")
    assert len(rows("photos.lance")) == 1
