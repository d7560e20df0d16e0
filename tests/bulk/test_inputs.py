"""The inputs of a job, without a cluster: tars, lists, columns."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk.conftest import write_tar
from vitriton._console.failure import CommandFailed
from vitriton._errors import InvalidOption
from vitriton._storage import Storage
from vitriton_ray._ids import check_ids
from vitriton_ray._inputs import find_inputs
from vitriton_ray._job import COLUMNS, BulkJob, Shard, ShardPlan, from_json, to_json
from vitriton_ray._manifest import read_kept, read_rows
from vitriton_ray._options import RayOptions
from vitriton_ray._output import BulkOutput
from vitriton_ray._parts import RowResult, make_part
from vitriton_ray._plan import make_plan
from vitriton_ray._tars import find_tars, list_members, read_member

LONG = "a folder/" * 30 + "long.png"


def rows_of(folder, **options):
    """The rows that a job of these options has."""
    storage, output = Storage(), BulkOutput(Storage(), str(folder))
    options = RayOptions(output=str(folder), **options)
    options.check()
    inputs, plan, shards = make_plan(storage, find_inputs(storage, options), output, options.shard_rows)
    check_ids(storage, inputs)
    job = _job(inputs.kind, inputs.value_column, inputs.kept_columns)
    return [row for shard in shards for row in read_rows(storage, job, plan, shard)]


def _job(kind, value_column, kept_columns=()):
    return BulkJob(
        sources=("here",),
        kind=kind,
        value_column=value_column,
        id_column=None,
        kept_columns=kept_columns,
        manifest_sha256=None,
        model="tiny",
        fingerprint="space",
        dimension=2,
    )


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_the_images_in_a_tar(style, tmp_path):
    """Each is known by its name there, and read where it is; of two with a name, the later one is there."""
    long = LONG if style != tarfile.USTAR_FORMAT else "long.png"
    members = [
        ("./a.jpg", b"first"),
        ("a.txt", b"its caption"),
        ("._a.jpg", b"of another system"),
        ("b/c.input.PNG", b"c" * 300_000),
        ("b/empty.jpg", b""),
        (long, b"long"),
        ("a.jpg", b"last"),
        ("caf\udce9.jpg", b"not UTF-8"),
    ]
    path = write_tar(tmp_path / "0.tar", members, style)
    found = {member.id: read_member(Storage(), member.uri, 10**6) for member in list_members(Storage(), [str(path)])}
    odd = next(name for name in found if "caf" in name)
    assert odd.encode()  # as Arrow takes it
    assert found == {
        f"{path}/a.jpg": b"last",
        f"{path}/b/c.input.PNG": b"c" * 300_000,
        f"{path}/b/empty.jpg": b"",
        f"{path}/{long}": b"long",
        odd: b"not UTF-8",
    }


def test_members_are_rows_in_the_order_of_the_tars(tmp_path):
    """Their ids name them; their URIs say where they are."""
    for number in range(3):
        write_tar(tmp_path / f"{number:03}.tar", [(f"{n}.jpg", b"%d" % n) for n in range(number, 4)])
    found = rows_of(tmp_path / "out", images=[f"{tmp_path}/{{000..002}}.tar"])
    assert [row.id for row in found] == [f"{tmp_path}/00{tar}.tar/{n}.jpg" for tar in range(3) for n in range(tar, 4)]
    assert found == rows_of(tmp_path / "again", images=[f"{tmp_path}/*.tar"])
    assert found[1].uri == f"{tmp_path}/000.tar#bytes=1536-1536"


def test_patterns(tmp_path):
    """Ranges of numbers keep their zeros, and * and ? stand for parts of a name, but [ does not."""
    for name in ("a1.tar", "a2.tar", "a[1].tar", "b.txt"):
        (tmp_path / name).touch()

    def found(pattern):
        uris = find_tars(Storage(), [f"{tmp_path}/{pattern}"])
        return [uri.removeprefix(f"{tmp_path}/") for uri in uris]

    assert found("{08..10}-{1..2}.tar") == [f"{one}-{two}.tar" for one in ("08", "09", "10") for two in "12"]
    assert found("*.tar") == ["a1.tar", "a2.tar", "a[1].tar"]
    assert found("a?.tar") == ["a1.tar", "a2.tar"]
    assert found("a[*.tar") == ["a[1].tar"]
    assert found("none.tar") == ["none.tar"]
    with pytest.raises(InvalidOption, match=r"no file fits .*/c\*\.tar"):
        found("c*.tar")


def _cut(data):
    return data[:2000]


def _damage(data):
    return data[:1024] + b"?" * 512 + data[1536:]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_cut, "unexpected end of data"),
        (_damage, "there is a damaged header at byte 1024"),
        (lambda data: b"no tar" * 1000, ""),
        (lambda data: b"", "empty file"),
    ],
)
def test_a_tar_that_is_none_is_named(spoil, reason, tmp_path):
    """Before anything is embedded: what is behind the damage would be missing."""
    write_tar(tmp_path / "good.tar", [("a.jpg", b"a"), ("b.jpg", b"b" * 5000)])
    (tmp_path / "bad.tar").write_bytes(spoil((tmp_path / "good.tar").read_bytes()))
    with pytest.raises(InvalidOption, match=f"bad.tar cannot be read as a tar: .*{reason}.*; leave it out"):
        rows_of(tmp_path / "out", images=[f"{tmp_path}/*.tar"])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["0.tar.gz"], "is compressed"),
        (["none.tar"], "does not exist"),
        (["0.tar", "photos"], "and not both"),
        (["0.tar", "0.tar"], "0.tar/a.jpg is in more than one of the folders or files that are named"),
        (["photos", "photos/sub"], "photos/sub/b.jpg is in more than one"),
        (["captions.tar"], "holds no image"),
        (["tars"], "holds no image; name its .tar files, as in .*/tars/[*].tar"),
    ],
)
def test_arguments_that_cannot_be(names, told, tmp_path):
    """Each is told with what to do."""
    write_tar(tmp_path / "0.tar", [("a.jpg", b"a")])
    write_tar(tmp_path / "captions.tar", [("a.txt", b"a")])
    for name in ("0.tar.gz", "photos/a.jpg", "photos/sub/b.jpg", "tars/0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InvalidOption, match=told):
        rows_of(tmp_path / "out", images=[f"{tmp_path}/{name}" for name in names])


def test_a_list_of_lines(tmp_path):
    """As on one machine, blank lines are left out."""
    (tmp_path / "list.txt").write_text("s3://bucket/a.jpg\n\n  \n/photos/b.jpg\r\n")
    found = rows_of(tmp_path / "out", list_file=str(tmp_path / "list.txt"))
    assert [row.uri for row in found] == ["s3://bucket/a.jpg", "/photos/b.jpg"]
    with pytest.raises(InvalidOption, match=r"is for \.csv, \.jsonl and \.parquet, and .*list\.txt is none"):
        rows_of(tmp_path / "out", list_file=str(tmp_path / "list.txt"), path_column="uri")
    (tmp_path / "bad.txt").write_bytes(b"a.jpg\n\xff.jpg\n")
    with pytest.raises(InvalidOption, match=r"bad\.txt, row 2: is not UTF-8"):
        rows_of(tmp_path / "out", list_file=str(tmp_path / "bad.txt"))


def test_images_in_a_field_of_a_column(tmp_path):
    """As Hugging Face datasets have them; a row without an image has no bytes."""
    images = [{"bytes": b"a", "path": "a.jpg"}, None, {"bytes": None, "path": "c.jpg"}]
    pq.write_table(pa.table({"image": images, "label": [1, 2, 3]}), tmp_path / "train.parquet")
    found = rows_of(tmp_path / "out", list_file=str(tmp_path / "train.parquet"), bytes_column="image.bytes")
    assert [row.value for row in found] == [b"a", None, None]
    with pytest.raises(InvalidOption, match=r"'image\.none' is not a column"):
        rows_of(tmp_path / "out", list_file=str(tmp_path / "train.parquet"), bytes_column="image.none")
    with pytest.raises(InvalidOption, match=r"'image\.path' of .* holds string, and not bytes"):
        rows_of(tmp_path / "out", list_file=str(tmp_path / "train.parquet"), bytes_column="image.path")


@pytest.mark.parametrize(
    ("name", "kept", "told"),
    [
        ("list.parquet", ["none"], "'none' is not a column of .*; it has uri, label, width"),
        ("list.parquet", ["width"], "'width' is a column of every output"),
        ("list.parquet", ["label", "label"], "names a column twice"),
        ("list.csv", ["label"], r"is for \.parquet"),
    ],
)
def test_columns_that_cannot_be_kept(name, kept, told, tmp_path):
    """Found before anything is written."""
    pq.write_table(pa.table({"uri": ["a"], "label": ["x"], "width": [1]}), tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_text("uri,label\na,x\n")
    with pytest.raises(InvalidOption, match=told):
        rows_of(tmp_path / "out", list_file=str(tmp_path / name), keep_column=kept)


def test_columns_are_kept_as_they_are(tmp_path):
    """With their types: dictionaries, moments in nanoseconds, structures, nulls; of a shard, its rows alone."""
    table = pa.table(
        {
            "uri": [f"{number}.jpg" for number in range(10)],
            "label": pa.array(["x", None] * 5).dictionary_encode(),
            "taken": pa.array(range(10), pa.timestamp("ns", "UTC")),
            "where": [{"x": number, "tags": ["a"] * number} for number in range(10)],
        }
    )
    pq.write_table(table, tmp_path / "list.parquet", row_group_size=3)
    kept = ("where", "label", "taken")
    job, shard = _job("uri", "uri", kept), Shard(0, str(tmp_path / "list.parquet"), 2, 5)
    rows = [RowResult(n, None, None, None, "no", "other", None, None) for n in range(5)]
    plan = ShardPlan(rows=10, shards=2, shard_rows=5, value_column="uri", id_column=None, id_type="int64")
    output = BulkOutput(Storage(), str(tmp_path / "out"))
    output.write_part(0, make_part(job, plan, shard, rows, read_kept(Storage(), job, shard)))
    written = pq.read_table(tmp_path / "out" / "part-00000000.parquet")
    assert tuple(written.schema.names) == COLUMNS + kept
    expected = table.slice(2, 5).select(kept)
    for name in kept:
        assert written.column(name).type == expected.column(name).type
        assert written.column(name).combine_chunks().equals(expected.column(name).combine_chunks())
    assert from_json(to_json(job, plan)) == (job, plan)


def test_no_rows(tmp_path):
    """A dry run and a run say it alike."""
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / "list.parquet")
    with pytest.raises(InvalidOption, match=r"list\.parquet has no rows"):
        rows_of(tmp_path / "out", list_file=str(tmp_path / "list.parquet"))


def test_a_store_that_is_away(tmp_path):
    """A tar that goes between two looks is the store's fault."""
    with pytest.raises(CommandFailed, match=r"none\.tar cannot be read"):
        list(list_members(Storage(), [str(tmp_path / "none.tar")]))
