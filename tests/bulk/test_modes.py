"""Other ways of the same job: a Triton in each worker, texts, one vector for copies, a dry run, one machine."""

import json
import re
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk.conftest import embed, make_bucket, picture, rows, vectors, write_pictures, write_tar
from client.text_model import write_text_model
from typer.testing import CliRunner
from vitriton import Client
from vitriton.cli import app
from vitriton_server import TritonServer


def _upload(folder, bucket, name):
    """Copies a folder to a bucket."""
    store = make_bucket(bucket)
    for path in (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        with store.open_output_stream(f"{bucket}/{name}/{path.relative_to(folder)}") as file:
            file.write(path.read_bytes())
    return f"s3://{bucket}/{name}"


def test_a_triton_in_each_worker(s3, triton, ray_cluster, repository, tmp_path):
    """The repository comes from a store, and no server is asked; the vectors are the same."""
    folder = write_pictures(tmp_path / "photos", 80, {3})
    models = _upload(repository, "embedded", "models")
    common = ("--url", "localhost:1", "--ray-address", ray_cluster.address, "--shard-rows", 20)
    embed(folder, "-o", tmp_path / "out", "--repository", models, *common, code=3)
    found = vectors(rows(tmp_path / "out"))
    paths = [str(path) for path in sorted(folder.iterdir())]
    assert sorted(found) == paths
    assert found.pop(paths.pop(3)) == "format"
    with Client(triton.grpc_address, model="tiny") as client:
        expected = client.embed(paths)
    np.testing.assert_allclose([found[path] for path in paths], expected, rtol=0, atol=1e-5)


def _computed(server: TritonServer) -> int:
    """The number of images that a Triton has embedded."""
    with urllib.request.urlopen(f"http://{server.http_address}/v2/models/tiny_pooled/stats") as answer:
        return sum(model["inference_count"] for model in json.load(answer)["model_stats"])


@pytest.mark.long
def test_copies_are_computed_once(triton, ray_cluster, tmp_path):
    """And each of them has its row, with the vector and its own value of the column that is kept."""
    folder = write_pictures(tmp_path / "photos", 30)
    for number in range(50):
        (folder / f"copy-{number:02d}.jpg").write_bytes(picture(0))
    paths = [str(path) for path in folder.iterdir()]
    pq.write_table(pa.table({"path": paths, "name": [path[-11:] for path in paths]}), tmp_path / "list.parquet")
    common = ("--url", triton.grpc_address, "--ray-address", ray_cluster.address, "--shard-rows", 16)
    listed = ("--from", tmp_path / "list.parquet", "--keep-column", "name")
    before = _computed(triton)
    done = embed(*listed, "-o", tmp_path / "once", *common, "--dedupe", "--json")
    assert _computed(triton) - before == 30
    assert json.loads(done.stdout)["images"] == 80
    assert not list((tmp_path / "once" / "_vitriton").rglob("*.parquet"))  # some readers would take them for data
    assert all(row["name"] == name[-11:] for name, row in rows(tmp_path / "once").items())
    write_tar(tmp_path / "copies.tar", [(path.name, path.read_bytes()) for path in folder.iterdir()])
    done = embed(tmp_path / "copies.tar", "-o", tmp_path / "tar", *common, "--dedupe", "--json")
    assert _computed(triton) - before == 60
    assert sorted(vectors(rows(tmp_path / "tar")).values()) == sorted(vectors(rows(tmp_path / "once")).values())
    embed(folder, "-o", tmp_path / "each", *common)
    assert vectors(rows(tmp_path / "once")) == vectors(rows(tmp_path / "each"))
    done = embed(*listed, "-o", tmp_path / "once", *common, "--dedupe", "--json")
    assert json.loads(done.stdout)["done_before"] == 80


@pytest.mark.long
def test_texts(ray_cluster, tmp_path):
    """A column of texts, of which some are none."""
    write_text_model(tmp_path / "models", "words_text_pooled")
    texts = [f"{number} words" for number in range(60)] + ["", None]
    pq.write_table(pa.table({"text": texts, "key": [f"k{n}" for n in range(62)]}), tmp_path / "texts.parquet")
    with TritonServer(tmp_path / "models") as server:
        arguments = ("--texts", tmp_path / "texts.parquet", "--id-column", "key", "-o", tmp_path / "out")
        embed(*arguments, "--url", server.grpc_address, "--ray-address", ray_cluster.address, code=3)
        with Client(server.grpc_address, model="words") as client:
            expected = client.embed_texts(texts[:60])
    found = rows(tmp_path / "out")
    np.testing.assert_array_equal([found[f"k{number}"]["embedding"] for number in range(60)], expected)
    assert [found[name]["error_code"] for name in ("k60", "k61")] == ["empty", "empty"]


def test_a_dry_run(triton, tmp_path):
    """It needs no cluster, and writes nothing; with a price, it says the cost."""
    folder = write_pictures(tmp_path / "photos", 40)
    common = (folder, "-o", tmp_path / "out", "--url", triton.grpc_address, "--dry-run")
    done = embed(*common, "--json")
    said = json.loads(done.stdout)
    assert (said["images"], said["files"], said["sample"], said["sample_failed"]) == (40, 1, 40, 0)
    assert said["input_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert said["output_bytes"] == 40 * 4 * 4
    assert said["images_per_s"] > 0
    assert "cost" not in said
    done = embed(*common, "--price-per-hour", 3_600_000)
    rate, cost = re.search(
        r"embeds ([\d.]+) images/s .*At 3600000.00 an hour, the workers cost ([\d.]+), however", done.stdout, re.DOTALL
    ).groups()
    assert float(cost) * float(rate) == pytest.approx(40 * 1000, rel=0.1)  # the rate is rounded
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("listed", [False, True])
def test_one_machine_reads_from_a_store(listed, s3, triton, tmp_path):
    """`vitriton embed` itself takes a folder of a bucket, or a list of its images."""
    folder = write_pictures(tmp_path / "photos", 30, {3})
    uri = _upload(folder, f"alone-{listed}".lower(), "photos")
    names = [f"{uri}/{path.name}" for path in sorted(folder.iterdir())] + ([f"{uri}/none.jpg"] if listed else [])
    (tmp_path / "list.txt").write_text("\n".join(names))
    arguments = ["--from", str(tmp_path / "list.txt")] if listed else [f"{uri}/"]
    arguments += ["-o", str(tmp_path / "out.parquet"), "--url", triton.grpc_address, "--json"]
    done = CliRunner().invoke(app, ["embed", *arguments])
    assert done.exit_code == 3, done.output
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("source").to_pylist() == [name for name in names if "000003" not in name and "none" not in name]
    with Client(triton.grpc_address, model="tiny") as client:
        expected = client.embed([picture(number) for number in range(30) if number != 3])
    np.testing.assert_array_equal(table.column("embedding").to_pylist(), expected)
    errors = [json.loads(line) for line in (tmp_path / "out.parquet.errors.jsonl").read_text().splitlines()]
    assert [error["code"] for error in errors] == ["format", "not_found"][: 1 + listed]
