"""`vitriton embed --from`: lists with columns, and the ids in what is written of them."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from vitriton._console.inputs import find_inputs
from vitriton._errors import InvalidOption
from vitriton.cli import app
from vitriton.commands.embed.lists import read_list


@pytest.fixture
def embed(address, tmp_path, monkeypatch):
    """Runs the command in an empty folder, with the model `tiny`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **settings):
        command = ["embed", "--url", address, "--model", "tiny", *map(str, arguments)]
        return CliRunner().invoke(app, command, **settings)

    return run


@pytest.fixture
def photos(tmp_path, files):
    """A folder with the first five pictures."""
    (tmp_path / "photos").mkdir()
    for index, data in enumerate(files[:5]):
        (tmp_path / "photos" / f"{index:02}.png").write_bytes(data)
    return tmp_path / "photos"


def write_table(path, rows):
    """Writes rows into a file of any format that has columns."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        path.write_text("\r\n".join(lines), encoding="utf-8-sig")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("output", ["out.parquet", "out.npy", "out.jsonl"])
def test_a_column_of_paths_and_one_of_ids(embed, photos, embeddings, tmp_path, suffix, output):
    """The outputs name an image by its id; an error tells the path, too."""
    rows = [
        {"label": "x, y", "key": 7, "file": "photos/03.png"},
        {"label": "lost", "key": 8, "file": "photos/no.png"},
        {"label": "z", "key": 7, "file": "photos/01.png"},
    ]
    write_table(tmp_path / f"list{suffix}", rows)
    result = embed("--from", f"list{suffix}", "--path-column", "file", "--id-column", "key", "-o", output)
    assert (result.exit_code, result.stderr) == (3, "")
    errors = [{"index": 1, "source": "8", "reason": "photos/no.png: no such file", "code": "not_found"}]
    assert lines(tmp_path / f"{output}.errors.jsonl") == errors
    if output == "out.parquet":
        table = pq.read_table(output)
        names, vectors = table.column("source").to_pylist(), table.column("embedding").to_pylist()
    else:
        named = lines(tmp_path / output.replace(".npy", ".sources.jsonl"))
        names = [line["source"] for line in named]
        vectors = np.load(output) if output == "out.npy" else [line["embedding"] for line in named]
    assert names == ["7", "7"]
    np.testing.assert_allclose(vectors, embeddings[[3, 1]], atol=1e-3)


def test_without_ids(embed, photos, tmp_path):
    """The column is `path` unless another is named; the outputs have the paths."""
    write_table(tmp_path / "list.csv", [{"path": "photos/03.png"}, {"path": "photos/01.png"}])
    assert embed("--from", "list.csv", "-o", "out.npy").exit_code == 0
    assert [line["source"] for line in lines(tmp_path / "out.sources.jsonl")] == ["photos/03.png", "photos/01.png"]


def test_standard_input_and_arguments(embed, photos, tmp_path):
    """With a column, standard input is JSON Lines. What the command line names has its path for an id."""
    data = b'{"id": "a", "path": "photos/02.png"}\n'
    assert embed("photos/04.png", "--from", "-", "--id-column", "id", "-o", "out.npy", input=data).exit_code == 0
    assert [line["source"] for line in lines(tmp_path / "out.sources.jsonl")] == ["photos/04.png", "a"]


def test_the_list_is_not_replaced(embed, photos, tmp_path):
    """Not even with --overwrite."""
    write_table(tmp_path / "list.parquet", [{"path": "photos/03.png"}])
    result = embed("--from", "list.parquet", "-o", "list.parquet", "--overwrite")
    assert result.exit_code == 2
    assert "-o list.parquet is a file that the command reads; give another name" in " ".join(result.stderr.split())
    assert pq.read_table("list.parquet").column_names == ["path"]


def test_csv(tmp_path):
    """Commas and line ends in quotes, blank lines, more or fewer cells than names, and bytes that are not UTF-8."""
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfid,path,note\r\n1,"a,b.png","two\nlines"\r\n\r\n2,c\xff.png\r\n3,d.png,x,y\r\n')
    listed = read_list(str(path), None, "id")
    assert listed.paths == ["a,b.png", os.fsdecode(b"c\xff.png"), "d.png"]
    assert listed.ids == ["1", "2", "3"]


def test_ids_are_part_of_a_run(tmp_path):
    """An interrupted run is not continued with other ids."""
    path = tmp_path / "list.csv"
    write_table(path, [{"path": "/a.png", "id": "x", "other": "y"}])
    first, second, third = (
        find_inputs([], read_list(str(path), None, column), recursive=True).sha256() for column in ("id", "other", None)
    )
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("name", "text", "columns", "option", "says"),
    [
        ("a.csv", "file,id\nx.png,1\n", (None, None), "path_column", "'path' is not a column of {}; it has file, id"),
        ("a.csv", "path\nx.png\n", (None, "id"), "id_column", "'id' is not a column of {}; it has path"),
        ("a.csv", "", (None, None), "path_column", "'path' is not a column of {}; it has none"),
        ("a.csv", "path,id\nx,1\n\n,2\n", (None, None), "list_file", "{}, row 2: column 'path' is empty; mend the row"),
        ("a.csv", "id,path\n1,x\n2\n", (None, None), "list_file", "{}, row 2: has no column 'path'; mend"),
        ("a.csv", "path,id\nx,\n", (None, "id"), "list_file", "{}, row 1: column 'id' is empty; mend"),
        ("a.csv", 'path\n"x"y\n', (None, None), "list_file", "{}, row 1: is not CSV: "),
        ("a.jsonl", '{"path": 7}\n', (None, None), "list_file", "{}, row 1: column 'path' holds a number, not a path"),
        ("a.jsonl", '{"path": "a\\u0000"}\n', (None, None), "list_file", "row 1: column 'path' has a null character"),
        ("a.jsonl", '{"path": "\\ud800"}\n', (None, None), "list_file", "row 1: column 'path' has half of a surrogate"),
        ("a.jsonl", '{"path": "a"}\nnonsense\n', (None, None), "list_file", "{}, row 2: is not JSON: "),
        ("a.parquet", "nonsense", (None, None), "list_file", "{} cannot be read as a Parquet file: "),
        ("a.txt", "x.png\n", (None, "id"), "id_column", "is for .csv, .jsonl and .parquet; {} has a path on each line"),
        ("a.lst", "x.png\n", ("path", None), "path_column", "is for .csv, .jsonl and .parquet; {} has a path on each"),
        ("no.csv", None, (None, None), "list_file", "{} does not exist"),
    ],
)
def test_refusals(tmp_path, name, text, columns, option, says):
    """A list that cannot be used as a whole is refused before any work."""
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidOption) as caught:
        read_list(str(path), *columns)
    assert caught.value.option == option
    assert says.format(path) in caught.value.wrong


def test_lines_are_paths(tmp_path):
    """A file of another name has a path on each line, whatever is in it."""
    path = tmp_path / "list"
    path.write_text('path,id\n{"path": 1}\n')
    assert read_list(str(path), None, None).paths == ["path,id", '{"path": 1}']


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["photos", "--path-column", "file"], "--path-column is for the columns of a list; give the list with --from"),
        (["photos", "--id-column", "id"], "--id-column is for the columns of a list (or of a file of texts); give"),
        (["--texts", "a.jsonl", "--path-column", "x"], "--path-column is for images; texts have a --text-column"),
        (["--texts", "a.jsonl", "--append"], "--append is for images; embed new texts into a file of their own"),
    ],
)
def test_options_that_do_not_fit(embed, photos, tmp_path, options, says):
    """They are not passed over."""
    Path("a.jsonl").touch()
    result = embed(*options, "-o", "out.npy")
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
