"""Photos and texts as questions, with a real Triton and small models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from search.store_contract import cosines, rows
from support import exports, two_towers
from typer.testing import CliRunner
from vitriton import Client
from vitriton.cli import app
from vitriton_search.stores import open_store
from vitriton_search.stores.store import Space
from vitriton_server import TritonServer

PHOTOS = sorted(Path("examples/photos").glob("*.jpg"))
TEXT = "a photo of a cat"


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """`clip` has both towers, and `images` and `texts` one each, of the same space; `siglip` is another space.

    The exports are those of tests/e2e/test_two_towers.py, which are made once.
    """
    folder = tmp_path_factory.mktemp("answers")
    checkpoint = two_towers.write("clip", folder / "clip")
    repository = folder / "models"
    exports.export(checkpoint, repository, name="clip")
    for tower in ("image", "text"):
        exports.export(checkpoint, repository, name=f"{tower}s", outputs="pooled", towers=tower)
    other = two_towers.write("siglip", folder / "siglip")
    exports.export(other, repository, name="siglip", outputs="pooled", l2_normalize=True)
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="module")
def photos():
    return [str(path.resolve()) for path in PHOTOS]


@pytest.fixture(scope="module")
def embedded(server, photos):
    """The vectors of the photos, and of a text."""
    with Client(server.grpc_address, model="clip") as client:
        client.wait_ready(timeout_s=60)
        return client.describe().fingerprint, client.embed(photos), client.embed_texts([TEXT])


@pytest.fixture(scope="module")
def store(embedded, photos, tmp_path_factory):
    fingerprint, vectors, _ = embedded
    url = str(tmp_path_factory.mktemp("store") / "photos.lance")
    with open_store(url, Space(model="clip", fingerprint=fingerprint, dimensions=vectors.shape[1])) as store:
        store.write(rows(photos, vectors))
    return url


def run(server, store, *arguments, code=0):
    given = ["search", "query", *map(str, arguments), "--store", store, "--url", server.grpc_address]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == code, done.output
    return done


def answers(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_photo_finds_itself(server, store, photos, tmp_path):
    """Under another name, too; the others are in numpy's order."""
    copy = tmp_path / "copy of a photo.jpg"
    shutil.copy(photos[2], copy)
    done = run(server, store, copy, "--json")
    assert done.stderr == f"photo: {copy}\n"
    assert answers(done)[0]["source"] == photos[2]
    assert answers(done)[0]["score"] == pytest.approx(1, abs=1e-5)


def test_a_text_finds_photos(server, store, photos, embedded):
    """In the order of numpy's cosines."""
    _, vectors, text = embedded
    scores = cosines(text, vectors)[0]
    done = run(server, store, TEXT, "--json", "-k", 5)
    assert done.stderr == f"text: {TEXT}\n"
    assert [answer["source"] for answer in answers(done)] == [photos[n] for n in np.argsort(-scores)[:5]]
    np.testing.assert_allclose([answer["score"] for answer in answers(done)], np.sort(scores)[::-1][:5], atol=1e-5)


def test_a_name_that_is_no_file_is_a_text(server, store):
    assert run(server, store, "dgo.jpg", "-k", 1).stderr == "text: dgo.jpg (there is no such file)\n"


def test_towers_that_are_not_there(server, store, photos):
    """The model of a store may be served as one tower."""
    done = run(server, store, TEXT, "--model", "images", code=1)
    assert "the model images embeds no texts. Photos can be found by a text if" in done.stderr
    assert "CLIP, SigLIP" in done.stderr
    done = run(server, store, photos[0], "--model", "texts", code=1)
    assert "the model texts embeds no photos; ask with a text" in done.stderr
    assert len(answers(run(server, store, TEXT, "--model", "texts", "--json"))) == len(photos)


def test_another_model_is_refused(server, store, photos):
    done = run(server, store, photos[0], "--model", "siglip", code=1)
    assert "fingerprint" in done.stderr
    assert done.stdout == ""
    assert "nobody" in run(server, store, photos[0], "--model", "nobody", code=1).stderr


def test_a_photo_that_cannot_be_read(server, store, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    done = run(server, store, tmp_path / "bad.jpg", code=1)
    assert "bad.jpg" in done.stderr
    (tmp_path / "link.jpg").symlink_to("nowhere")
    assert "no such file" in run(server, store, tmp_path / "link.jpg", code=1).stderr


def test_no_server_is_needed_for_a_row(store, photos):
    given = ["search", "query", f"id:{photos[0]}", "--store", store, "--url", "localhost:1", "--json"]
    assert CliRunner().invoke(app, given).exit_code == 0
    gone = CliRunner().invoke(app, [*given[:2], photos[0], *given[3:], "--timeout", "1"])
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert "localhost:1" in gone.stderr


def test_an_export_is_what_embed_writes(server, store, photos, tmp_path):
    """The same columns, types and metadata, and the same rows."""
    embed = ["embed", *photos, "--model", "clip", "--url", server.grpc_address, "-o", str(tmp_path / "a.parquet")]
    export = ["search", "export", "--store", store, "-o", str(tmp_path / "b.parquet")]
    for arguments in (embed, export):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    first, second = (pq.read_table(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert first.schema.equals(second.schema, check_metadata=True)
    by_source = [{row["source"]: row["embedding"] for row in table.to_pylist()} for table in (first, second)]
    assert by_source[0] == by_source[1]
