"""Bulk embedding on a real Ray, a real Triton and a real S3 server."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from bulk.conftest import BAD, embed, make_bucket, picture, read, rows, vectors, write_pictures, write_tar
from vitriton import Client

COUNT, WRONG = 300, {7, 150}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("bulk") / "photos", COUNT, WRONG)


@pytest.fixture(scope="module")
def options(triton, ray_cluster):
    return "--url", triton.grpc_address, "--ray-address", ray_cluster.address


@pytest.fixture(scope="module")
def finished(folder, options, tmp_path_factory):
    """The output of a run on the folder, and its summary."""
    out = tmp_path_factory.mktemp("finished") / "out"
    done = embed(folder, "-o", out, *options, "--json", code=3)
    return out, json.loads(done.stdout)


@pytest.fixture
def out(finished, tmp_path):
    """A copy of that output."""
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


def test_a_folder_becomes_a_folder_of_vectors(folder, finished, triton):
    """Each picture is in it once; one that cannot be read has an error; the vectors are those of a client."""
    out, summary = finished
    assert (summary["images"], summary["failed"], summary["files"]) == (COUNT, len(WRONG), 2)
    found = rows(out)
    assert sorted(found) == [str(path) for path in sorted(folder.iterdir())]
    assert {number for number, name in enumerate(sorted(found)) if found[name]["error"]} == WRONG
    table = read(out)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 4)
    assert set(table.column("fingerprint").to_pylist()) == {"space-1"}
    good = [name for name in sorted(found) if found[name]["error"] is None]
    with Client(triton.grpc_address, model="tiny") as client:
        expected = client.embed(good)
    np.testing.assert_array_equal(np.array([found[name]["embedding"] for name in good]), expected)
    first = found[good[0]]
    assert (first["width"], first["height"], len(first["sha256"])) == (16, 16, 64)


def test_a_run_after_the_end_does_nothing(folder, options, out):
    """And a lost file is made again, alone."""
    done = embed(folder, "-o", out, *options, "--json", "--ray-address", "nowhere:1", code=3)
    assert json.loads(done.stdout)["done_before"] == COUNT
    before = vectors(rows(out))
    first, second = sorted(out.glob("*.parquet"))
    stamps = first.stat().st_mtime_ns
    second.unlink()
    done = embed(folder, "-o", out, *options, "--json", code=3)
    assert json.loads(done.stdout)["done_before"] == 256
    assert vectors(rows(out)) == before
    assert first.stat().st_mtime_ns == stamps


def test_a_manifest_on_s3(s3, options, triton, tmp_path):
    """Its ids and a column that is kept; pictures, manifest and output are in a bucket."""
    store = make_bucket("bulk")
    for number in range(40):
        with store.open_output_stream(f"bulk/photos/a b?{number}#.jpg") as file:
            file.write(picture(number))
    uris = [f"s3://bulk/photos/a b?{number}#.jpg" for number in range(40)] + ["s3://bulk/photos/none.jpg", None]
    table = pa.table({"id": range(100, 142), "uri": uris, "label": [f"x{number}" for number in range(42)]})
    pq.write_table(table, "bulk/manifest.parquet", filesystem=store, row_group_size=7)
    common = (*options, "--keep-column", "label", "--shard-rows", 16)
    embed("--from", "s3://bulk/manifest.parquet", "-o", "s3://bulk/out", *common, code=3)
    found = rows("s3://bulk/out")
    assert {name: row["label"] for name, row in found.items()} == {100 + n: f"x{n}" for n in range(42)}
    assert [found[name]["error_code"] for name in (140, 141)] == ["not_found", "empty"]
    with Client(triton.grpc_address, model="tiny") as client:
        expected = client.embed([picture(number) for number in range(40)])
    np.testing.assert_array_equal(np.array([found[100 + number]["embedding"] for number in range(40)]), expected)
    assert read("s3://bulk/out").schema.field("id").type == pa.int64()


@pytest.fixture(scope="module")
def tars(s3):
    """Three tars in a bucket: their pattern."""
    store = make_bucket("tars")
    for tar in range(3):
        members = [(f"{number:04}.jpg", picture(number)) for number in range(10 * tar, 10 * tar + 10)]
        captions = [(f"{number:04}.txt", b"a caption") for number in range(10)]
        with store.open_output_stream(f"tars/shards/{tar:03}.tar") as file:
            write_tar(file, [*members, *captions, ("bad.jpg", BAD)])
    return "s3://tars/shards/{000..002}.tar"


def test_how_much_is_in_tars(tars, options):
    """A dry run lists all of them, and embeds images of the first."""
    said = json.loads(embed(tars, "-o", "s3://tars/none", *options, "--dry-run", "--json", "--shard-rows", 11).stdout)
    assert (said["images"], said["files"], said["sample"], said["sample_failed"]) == (33, 3, 11, 1)


@pytest.mark.long
def test_tars_on_s3(tars, options, triton):
    """Each image in them is a row, in shards that do not end where a tar does."""
    embed(tars, "-o", "s3://tars/out", *options, "--shard-rows", 7, code=3)
    found = vectors(rows("s3://tars/out"))
    assert [name for name in found if found[name] == "format"] == [f"s3://tars/shards/00{n}.tar/bad.jpg" for n in "012"]
    with Client(triton.grpc_address, model="tiny") as client:
        expected = client.embed([picture(number) for number in range(30)])
    names = [f"s3://tars/shards/{number // 10:03}.tar/{number:04}.jpg" for number in range(30)]
    np.testing.assert_array_equal([found[name] for name in names], expected)


@pytest.mark.long
def test_images_in_a_column_and_half_floats(options, triton, tmp_path):
    """The bytes are in the table; rows without ids are known by their numbers."""
    images = [{"bytes": picture(number)} for number in range(20)] + [{"bytes": b""}, None]
    pq.write_table(pa.table({"picture": images}), tmp_path / "pictures.parquet", row_group_size=6)
    arguments = ("--from", tmp_path / "pictures.parquet", "--bytes-column", "picture.bytes", "--dtype", "float16")
    embed(*arguments, "-o", tmp_path / "out", *options, "--shard-rows", 8, code=3)
    found = rows(tmp_path / "out")
    assert sorted(found) == sorted(f"{tmp_path}/pictures.parquet:{number}" for number in range(1, 23))
    with Client(triton.grpc_address, model="tiny") as client:
        expected = client.embed([picture(number) for number in range(20)])
    got = [found[f"{tmp_path}/pictures.parquet:{number}"]["embedding"] for number in range(1, 21)]
    np.testing.assert_array_equal(np.array(got), expected.astype(np.float16))
    assert found[f"{tmp_path}/pictures.parquet:21"]["error_code"] == "empty"


@pytest.mark.long
def test_a_list_in_csv(folder, options, tmp_path):
    """As `vitriton embed --from` reads it."""
    paths = [str(path) for path in sorted(folder.iterdir())[:30]]
    pyarrow.csv.write_csv(pa.table({"path": paths, "id": [f"n{n}" for n in range(30)]}), tmp_path / "list.csv")
    embed("--from", tmp_path / "list.csv", "-o", tmp_path / "out", *options, code=3)
    assert sorted(rows(tmp_path / "out")) == sorted(f"n{n}" for n in range(30))


def test_another_job_is_refused(folder, options, out):
    """Before a worker starts; what is there stays."""
    done = embed(folder, "-o", out, *options, "--dtype", "float16", code=2)
    assert "belongs to another job, with the type of the vectors float32, and not float16" in done.stderr
    done = embed(folder.parent, "-o", out, *options, code=2)
    assert f"with the inputs {folder}, and not {folder.parent}; name another output" in done.stderr
    assert len(rows(out)) == COUNT


def test_ids_must_differ(options, tmp_path):
    """Two rows would be one."""
    pq.write_table(pa.table({"id": [3, 1, 2, 3], "uri": list("abcd")}), tmp_path / "list.parquet")
    done = embed("--from", tmp_path / "list.parquet", "-o", tmp_path / "out", *options, code=2)
    assert f"column 'id' has 3 twice, in row 1 of {tmp_path}/list.parquet and row 4 of" in done.stderr


@pytest.mark.long
def test_too_many_errors_end_the_run(folder, options, tmp_path):
    """And what is done is kept."""
    done = embed(folder, "-o", tmp_path / "out", *options, "--max-errors", 0, code=1)
    assert "more than --max-errors 0" in done.stderr
    assert "repeat the command to continue" in done.stderr
    assert list((tmp_path / "out").glob("*.parquet"))
