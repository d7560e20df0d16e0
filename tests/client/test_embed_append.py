"""`vitriton embed --append`: an output grows with its folder, and nothing is lost or embedded again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from client.conftest import write_model
from client.test_embed_resume import CRASHES, command, contents
from support.steps import EMBED, go_on, start
from typer.testing import CliRunner
from vitriton.cli import app


@pytest.fixture(scope="module")
def own_server(subprocesses, tmp_path_factory):
    """A Triton of this module's own, with the model `tiny`, which answers a request of four at most."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1", max_batch_size=4)
    with TritonServer(repository) as running:
        yield running


@pytest.fixture
def embed(address, tmp_path, monkeypatch):
    """Runs the command in an empty folder, with the model `tiny`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(app, ["embed", "--url", address, "--model", "tiny", *map(str, arguments)])

    return run


@pytest.fixture
def grow(tmp_path, files):
    """Writes pictures into the folder `photos`."""
    (tmp_path / "photos").mkdir()

    def write(*indices):
        for index in indices:
            (tmp_path / "photos" / f"{index:02}.png").write_bytes(files[index])

    return write


def read(name):
    """The indices, names and embeddings of an output."""
    if name.endswith(".parquet"):
        table = pq.read_table(name)
        shape = json.loads(table.schema.metadata[b"shape"])
        index, source, vectors = (table.column(each).to_pylist() for each in ("index", "source", "embedding"))
        return index, source, np.array(vectors, np.float32).reshape(-1, *shape)
    with Path(name).with_suffix(".sources.jsonl").open() as file:
        lines = [json.loads(line) for line in file]
    return [line["index"] for line in lines], [line["source"] for line in lines], np.load(name)


@pytest.mark.parametrize("option", ["--pool", "--unpooled"])
@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_a_folder_that_grew(embed, grow, embeddings, tmp_path, name, option):
    """The first run makes the output; later ones add what is new behind it, and try again what failed."""
    command = ["photos", "-o", name, option, "--append", "--json"]
    grow(5, 6, 9)
    (tmp_path / "photos" / "07.png").write_bytes(b"nonsense")
    first = embed(*command)
    assert (first.exit_code, json.loads(first.stdout)["kept"]) == (3, 0)
    kept = read(name)[2]
    grow(2, 7, 19)
    (tmp_path / "photos" / "06.png").unlink()
    again = embed(*command)
    summary = json.loads(again.stdout)
    assert (again.exit_code, again.stderr) == (0, "")
    assert [summary[key] for key in ("images", "embedded", "kept", "done_before", "failed")] == [6, 6, 3, 0, 0]
    index, source, vectors = read(name)
    order = [5, 6, 9, 2, 7, 19]
    assert (index, source) == ([*range(6)], [f"photos/{each:02}.png" for each in order])
    np.testing.assert_array_equal(vectors[:3], kept)
    expected = embeddings[order] if option == "--pool" else np.repeat(embeddings[order][:, None], 3, axis=1)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    beside = {"out.sources.jsonl"} if name == "out.npy" else set()  # no file of errors, and no work folder
    assert {path.name for path in tmp_path.iterdir()} == {"photos", name, *beside}
    if name == "out.parquet":
        assert pq.read_schema(name).metadata[b"fingerprint"] == b"space-1"


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_nothing_new(embed, grow, tmp_path, name):
    """The output stays as it is."""
    grow(0, 1)
    assert embed("photos", "-o", name).exit_code == 0
    before = Path(name).stat()
    result = embed("photos", "-o", name, "--append")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"0 images embedded into {name} in ")
    assert " images/s, beside 2 images that it had\n" in result.stdout
    after = Path(name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (tmp_path / f"{name}.partial").exists()


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_an_output_without_rows(embed, grow, tmp_path, name):
    """It can be added to, although all that it says is a shape."""
    (tmp_path / "photos" / "00.png").write_bytes(b"nonsense")
    assert embed("photos", "-o", name).exit_code == 3
    grow(0)
    assert embed("photos", "-o", name, "--append").exit_code == 0
    assert read(name)[:2] == ([0], ["photos/00.png"])


def test_ids(embed, grow, tmp_path):
    """An image of a list is known by its id."""
    grow(0, 1, 2)
    (tmp_path / "list.csv").write_text("id,path\na,photos/00.png\nb,photos/01.png\n")
    command = ["--from", "list.csv", "--id-column", "id", "-o", "out.parquet", "--append"]
    assert embed(*command).exit_code == 0
    (tmp_path / "list.csv").write_text("id,path\nb,moved.png\nc,photos/02.png\nd,lost.png\n")
    result = embed(*command)
    assert result.exit_code == 3
    assert read("out.parquet")[1] == ["a", "b", "c"]
    assert json.loads((tmp_path / "out.parquet.errors.jsonl").read_text()) == {
        "index": 3,
        "source": "d",
        "reason": "lost.png: no such file",
        "code": "not_found",
    }


def test_names_that_are_no_unicode(embed, grow, files, tmp_path):
    """They are known by the form in which they are written."""
    grow(0)
    odd = tmp_path / "photos" / os.fsdecode(b"\xff.png")
    odd.write_bytes(files[1])
    for expected in (0, 2):
        result = embed("photos", "-o", "out.npy", "--append", "--json")
        assert (result.exit_code, json.loads(result.stdout)["kept"]) == (0, expected)


def test_an_image_that_changed(embed, grow, files, tmp_path):
    """Its vector is kept, and a note says so."""
    grow(0, 1, 2)
    assert embed("photos", "-o", "out.npy").exit_code == 0
    written_s = Path("out.npy").stat().st_mtime
    (tmp_path / "photos" / "01.png").write_bytes(files[9])
    os.utime(tmp_path / "photos" / "01.png", (written_s + 1, written_s + 1))
    (tmp_path / "photos" / "notes.txt").touch()
    result = embed("photos", "-o", "out.npy", "--append")
    assert result.exit_code == 0
    assert result.stderr == (
        "note: skipped, because their names are not those of images: .txt: 1; 1 image changed after out.npy was "
        "written, whose vectors are kept (--overwrite embeds all images again)\n"
    )


def _of_another_space():
    table = pq.read_table("out.parquet")
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"fingerprint": b"space-2"}), "out.parquet")


def _with_another_column():
    table = pq.read_table("out.parquet")
    pq.write_table(table.append_column("label", pa.array(["cat"])), "out.parquet")


def _of_another_program():
    pq.write_table(pa.table({"index": [0], "source": ["a"], "embedding": [[0.5]]}), "out.parquet")


def _of_lists():
    table = pq.read_table("out.parquet")
    lists = table.column("embedding").cast(pa.list_(pa.float32()))
    pq.write_table(table.set_column(2, "embedding", lists), "out.parquet")


def _without_sources():
    Path("out.sources.jsonl").unlink()


def _with_more_sources():
    with Path("out.sources.jsonl").open("a") as file:
        file.write('{"index": 1, "source": "x", "fingerprint": "space-1"}\n')


def _with_tokens():
    Path("out.sources.jsonl").write_text('{"index": 0, "source": "x", "fingerprint": "space-1", "tokens": 1}\n')


def _of_another_space_beside_an_array():
    Path("out.sources.jsonl").write_text('{"index": 0, "source": "x", "fingerprint": "space-2"}\n')


@pytest.mark.parametrize(
    ("output", "change", "options", "exit_code", "says"),
    [
        ("out.parquet", _of_another_space, [], 1, "has vectors of the fingerprint space-2, and model tiny has space-1"),
        ("out.npy", _of_another_space_beside_an_array, [], 1, "has vectors of the fingerprint space-2, and model tiny"),
        ("out.parquet", None, ["--unpooled"], 1, "has embeddings of shape [4], and this command makes [3, 4]: give"),
        ("out.npy", None, ["--unpooled"], 1, "has embeddings of shape [4], and this command makes [3, 4]: give"),
        ("out.parquet", None, ["--overwrite"], 2, "give either --append or --overwrite, not both"),
        ("out.jsonl", None, [], 2, "--append is for .parquet and .npy, and the output is out.jsonl"),
        ("out.npy", None, ["--every", "1s"], 2, "--append is for images; embed frames of videos (--every) into a file"),
        ("out.parquet", _with_another_column, [], 2, "has the columns index, source, embedding, label, and not index"),
        ("out.parquet", _of_another_program, [], 2, "--append cannot add to out.parquet (it has no 'fingerprint')"),
        ("out.parquet", _of_lists, [], 2, "(its embeddings are list<element: float>)"),
        ("out.npy", _without_sources, [], 2, "--append cannot add to out.npy ([Errno 2] No such file or directory: "),
        ("out.npy", _with_more_sources, [], 2, "(out.sources.jsonl has 2 lines for 1 rows)"),
        ("out.npy", _with_tokens, [], 2, "has the columns index, source, fingerprint, tokens, and not index, source"),
    ],
)
def test_refusals(embed, grow, tmp_path, output, change, options, exit_code, says):
    """What cannot stand in one file is not joined, and nothing is changed."""
    grow(0)
    assert embed("photos", "-o", output).exit_code == 0
    if change is not None:
        change()
    grow(1)
    before = contents(tmp_path)
    result = embed("photos", "-o", output, "--append", *options)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert says in " ".join(result.stderr.split())
    assert contents(tmp_path) == before
    assert not (tmp_path / f"{output}.partial").exists()


def test_an_interrupted_run_of_another_kind(embed, grow, own_server, tmp_path):
    """What --append began, --overwrite does not finish; and the other way round."""
    grow(*range(8))
    assert embed("photos", "-o", "out.npy").exit_code == 0
    grow(8, 9)
    for begun, other, says in (
        ("--append", "--overwrite", "it was begun with --append, and this command is without --append"),
        ("--overwrite", "--append", "it was begun without --append, and this command is with --append"),
    ):
        with start(EMBED, command(own_server.grpc_address, tmp_path / "out.npy", begun)) as process:
            go_on(process, 1)
            process.kill()
        result = embed("photos", "-o", tmp_path / "out.npy", other)
        assert result.exit_code == 1
        assert says in result.stderr
        shutil.rmtree(tmp_path / "out.npy.partial")


@pytest.mark.parametrize("name", ["out.parquet", pytest.param("out.npy", marks=pytest.mark.long)])
def test_killed(embed, grow, own_server, files, tmp_path, monkeypatch, name):
    """After kill -9 the same command goes on, whether it was with the rows that are kept or with new images."""
    grow(*range(6))
    assert embed("photos", "-o", name).exit_code == 0
    grow(*range(6, 17))
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
        for path in tmp_path.glob("out.*"):
            shutil.copy(path, folder)
    assert embed("photos", "-o", f"whole/{name}", "--append").exit_code == 0
    for images in (2, 6, 11):
        with start(EMBED, command(own_server.grpc_address, tmp_path / "cut" / name, "--append")) as process:
            go_on(process, images)
            process.kill()
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / name).read_bytes()
    result = embed("photos", "-o", tmp_path / "cut" / name, "--append", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["done_before"] >= 5
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {path.name for path in tmp_path.glob("out.*")}


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_every_step(embed, grow, own_server, tmp_path, every):
    """Killed before each single write, sync, rename and removal in turn, the same command leaves the same files."""
    grow(3, 4)
    (tmp_path / "template").mkdir()
    assert embed("photos", "-o", "template/out.npy").exit_code == 0
    grow(1, 5)
    (tmp_path / "photos" / "09.png").write_bytes(b"nonsense")
    (tmp_path / "runs").mkdir()
    address = f"http://{own_server.http_address}"  # a process with gRPC in it cannot be forked
    arguments = ["embed", "--url", address, "--model", "tiny", "photos", "--append"]
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path / "runs"), "template", str(every), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    *crashed, last = done.stdout.splitlines()
    assert last.endswith("exit 3"), (done.stdout, done.stderr)
    assert len(crashed) > 30 / every
    whole = contents(tmp_path / "runs" / last.split()[1])
    assert len(np.load(tmp_path / "runs" / last.split()[1] / "out.npy")) == 4
    for line in crashed:
        found = contents(tmp_path / "runs" / line.split()[0])
        # after its last step the run has ended, and one more tries the bad image again, whose index is the same
        assert (line.split()[-1], found) == ("3", whole), (line, done.stderr)
