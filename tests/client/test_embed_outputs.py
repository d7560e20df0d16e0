"""The .parquet output of `vitriton embed`: what docs/reference/files.md says of it, and other programs that read it."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vitriton._version import __version__
from vitriton.commands.embed import journal
from vitriton.commands.embed.job import Job, Name
from vitriton.commands.embed.journal import Outcome, WorkFolder
from vitriton.commands.embed.outputs import Paths, draft, publish

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "files.md"


def write(path, rows, *, shape, prompt=None, every_s=None, id_column=None):
    """Writes an output of rows, as a run that is complete does."""
    job = Job(
        model="m", fingerprint="space-1", pool=len(shape) == 1, shape=shape, inputs=len(rows), inputs_sha256="0",
        tower="image" if prompt is None else "text", prompt=prompt, every_s=every_s, id_column=id_column,
    )  # fmt: skip
    paths = Paths(output=path, errors=path.with_name("errors.jsonl"))
    with WorkFolder(paths.work) as work:
        work.begin(job, [Name(f"photos/{index}.jpg") for index in range(len(rows))])
        work.commit([Outcome(index, row, None) for index, row in enumerate(rows)])
        publish(work, paths, draft(work, paths))


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    """(100, 8) float32: the embeddings of vectors.parquet, which is in the current folder."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    write(tmp_path / "vectors.parquet", rows, shape=(8,))
    return rows


def described(heading):
    """The names in the first column of the page's table with this heading."""
    table = PAGE.read_text().partition(f"| {heading} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("shape", "kind"), [((8,), pa.list_(pa.float32(), 8)), ((3, 4), pa.list_(pa.float32(), 12)), ((None, 2), None)]
)
def test_the_schema_is_as_described(tmp_path, shape, kind):
    """Its columns with their types, and all of its metadata; without a prompt, videos or ids, theirs are absent."""
    path = tmp_path / "out.parquet"
    for prompt, every_s, id_column in ((None, None, "sku"), ("query", None, None), (None, 1.0, None)):
        row = np.ones([size or 5 for size in shape], np.float32)
        write(path, [row], shape=shape, prompt=prompt, every_s=every_s, id_column=id_column)
        schema = pq.read_schema(path)
        of_frames = {"time_s": pa.float64(), "frame": pa.int64()}
        types = {"index": pa.int64(), "source": pa.string(), **of_frames, "embedding": kind or pa.list_(pa.float32())}
        assert list(types) == described("column")
        names = [name for name in types if every_s is not None or name not in of_frames]
        assert (schema.names, schema.types) == (names, [types[name] for name in names])
        assert {field.name for field in schema if field.nullable} == of_frames.keys() & set(names)
        metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        optional = {"prompt": prompt, "every_s": every_s, "id_column": id_column}
        absent = {name for name, value in optional.items() if value is None}
        assert metadata.keys() == set(described("metadata of the schema")) - absent
        assert metadata["vitriton_version"] == __version__
        assert json.loads(metadata["shape"]) == list(shape)


def test_row_groups(tmp_path):
    """They are of the size that is described, and together they are all rows."""
    assert f"at most {journal._BLOCK_BYTES // 2**20} MiB of embeddings" in PAGE.read_text()
    rows = np.zeros((9, 2 * 2**20), np.float32)  # of 8 MiB each
    write(tmp_path / "out.parquet", rows, shape=rows.shape[1:])
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [8, 1]


def test_duckdb(vectors):
    """The page's code reads it, and so does a cast to an array."""
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("pandas")
    code = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    np.testing.assert_array_equal(names["vectors"], vectors)
    assert names["fingerprint"] == "space-1"
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = [index for index in np.argsort(-(unit @ unit[0])) if index != 0][:10]
    assert [row[0] for row in duckdb.sql(names["nearest"]).fetchall()] == [f"photos/{index}.jpg" for index in order]
    cast = "SELECT array_distance(embedding::FLOAT[8], embedding::FLOAT[8]) FROM 'vectors.parquet'"
    assert duckdb.sql(cast).fetchall() == [(0.0,)] * 100


def test_polars(vectors):
    """The column is an array."""
    polars = pytest.importorskip("polars")
    np.testing.assert_array_equal(polars.read_parquet("vectors.parquet")["embedding"].to_numpy(), vectors)
