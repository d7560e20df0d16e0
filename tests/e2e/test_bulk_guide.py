"""What docs/guides/bulk.md makes of an output of `vitriton embed --engine ray`."""

from pathlib import Path

import numpy as np
import pytest
from e2e.test_documentation import ROOT, blocks
from vitriton._storage import Storage
from vitriton_ray._job import BulkJob, Shard, ShardPlan
from vitriton_ray._output import BulkOutput
from vitriton_ray._parts import RowResult, make_part

lancedb = pytest.importorskip("lancedb")


def test_other_forms_of_an_output(tmp_path, monkeypatch):
    """They have the rows with a vector, of all files."""
    job = BulkJob(
        sources=("photos",),
        kind="uri",
        value_column="uri",
        id_column=None,
        manifest_sha256=None,
        model="photos",
        fingerprint="space",
        dimension=4,
    )
    plan = ShardPlan(rows=20, shards=2, shard_rows=10, value_column="uri", id_column=None)
    vectors = np.random.default_rng(0).random((20, 4), np.float32)
    output = BulkOutput(Storage(), str(tmp_path / "vectors"))
    shards = [Shard(number, "list", 10 * number, 10) for number in range(2)]
    for shard in shards:
        rows = [
            RowResult(f"{index}.jpg", f"{index}.jpg", None, vectors[index], None, None, 1, 1)
            if index % 10
            else RowResult(f"{index}.jpg", f"{index}.jpg", None, None, "no such file", "not_found", None, None)
            for index in range(shard.first, shard.first + shard.rows)
        ]
        output.write_part(shard.number, make_part(job, plan, shard, rows))
    output.write_job(job, plan, shards)
    monkeypatch.chdir(tmp_path)
    code = next(block.code for block in blocks(ROOT / "docs/guides/bulk.md") if "lancedb" in block.code)
    exec(compile(code, "bulk.md", "exec"), {})
    for number in range(2):
        first = 10 * number
        np.testing.assert_array_equal(np.load(f"part-{number:08}.npy"), vectors[first + 1 : first + 10])
    table = lancedb.connect("lance").open_table("photos")
    assert table.count_rows() == 18
    found = table.search(vectors[7]).limit(1).to_list()[0]
    assert (found["id"], found["_distance"]) == ("7.jpg", 0.0)
    assert Path("lance/photos.lance").is_dir()
