"""`vitriton embed`: what it takes, what it writes, what it says."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.commands import MAIN
from typer.testing import CliRunner
from vitriton._console.inputs import find_inputs
from vitriton._console.progress import Lines, _bar
from vitriton.cli import app


@pytest.fixture
def embed(address, tmp_path, monkeypatch):
    """Runs the command in an empty folder, with the model `tiny`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model="tiny", **settings):
        named = [] if model is None else ["--model", model]
        return CliRunner().invoke(app, ["embed", "--url", address, *named, *map(str, arguments)], **settings)

    return run


@pytest.fixture
def photos(tmp_path, files):
    """A folder with the twenty pictures, half of them in a folder of it; `files` are sorted as they are found."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index, data in enumerate(files):
        (folder / ("more" if index >= 10 else ".") / f"{index:02}.png").write_bytes(data)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def sources():
    return [f"photos/{'more/' if index >= 10 else ''}{index:02}.png" for index in range(20)]


def test_parquet(embed, photos, embeddings, tmp_path):
    """A Parquet file has the rows in input order, and says of which model and space they are."""
    result = embed("photos", "-o", "out.parquet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("20 images embedded into out.parquet in ")
    table = pq.read_table("out.parquet")
    assert table.column("index").to_pylist() == list(range(20))
    assert table.column("source").to_pylist() == sources()
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[4]"
    np.testing.assert_allclose(np.array(table.column("embedding").to_pylist()), embeddings, atol=1e-3)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata.pop("vitriton_version")
    assert metadata == {"model": "tiny", "fingerprint": "space-1", "pool": "true", "shape": "[4]"}
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out.parquet"}


def test_a_model_without_a_fingerprint(embed, photos):
    """Vectors that nobody could tell from another space's are not written."""
    result = embed("photos", "-o", "out.npy", model="wide")
    assert result.exit_code == 1
    assert "has no fingerprint; export it with `vitriton export`" in result.stderr


def test_npy(embed, photos, embeddings, tmp_path):
    """An array file has its rows' sources beside it."""
    assert embed("photos", "-o", "out.npy").exit_code == 0
    rows = np.load("out.npy")
    assert (rows.dtype, rows.shape) == (np.float32, (20, 4))
    np.testing.assert_allclose(rows, embeddings, atol=1e-3)
    named = lines(tmp_path / "out.sources.jsonl")
    assert [line["source"] for line in named] == sources()
    assert named[3] == {"index": 3, "source": "photos/03.png", "fingerprint": "space-1"}


def test_jsonl(embed, photos, embeddings, tmp_path):
    """JSON Lines hold everything in each line."""
    assert embed("photos", "-o", "out.jsonl").exit_code == 0
    rows = lines(tmp_path / "out.jsonl")
    np.testing.assert_allclose([row.pop("embedding") for row in rows], embeddings, atol=1e-3)
    assert rows == [
        {"index": index, "source": source, "fingerprint": "space-1"} for index, source in enumerate(sources())
    ]


@pytest.mark.parametrize("option", ["--unpooled", "--no-pool"])
def test_unpooled(embed, photos, embeddings, tmp_path, option):
    """Without pooling each image has all its tokens, in every format."""
    for name in ("out.npy", "out.jsonl", "out.parquet"):
        assert embed("photos", "-o", name, option).exit_code == 0
    rows = np.load("out.npy")
    assert rows.shape == (20, 3, 4)
    np.testing.assert_allclose(rows, np.repeat(embeddings[:, None], 3, axis=1), atol=1e-3)
    np.testing.assert_array_equal(rows, [line["embedding"] for line in lines(tmp_path / "out.jsonl")])
    table = pq.read_table("out.parquet")
    assert table.schema.metadata[b"shape"] == b"[3, 4]"
    flat = table.column("embedding").combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(rows, flat.reshape(-1, 3, 4))


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "out.jsonl"])
def test_bad_images(embed, photos, tmp_path, name):
    """Bad images have no row but a line in the errors file, and an exit code of their own."""
    (photos / "05.png").write_bytes(b"nonsense")
    (photos / "07.png").unlink()
    (photos / "07.png").symlink_to("nowhere")
    result = embed("photos", "-o", name)
    assert result.exit_code == 3
    assert f"18 images embedded into {name}" in result.stdout
    assert f"2 images could not be: see {name}.errors.jsonl" in result.stdout
    errors = lines(tmp_path / f"{name}.errors.jsonl")
    assert [(error["index"], error["source"]) for error in errors] == [(5, "photos/05.png"), (7, "photos/07.png")]
    assert "no image of a known format" in errors[0]["reason"]
    assert errors[1]["reason"] == "no such file"
    assert [error["code"] for error in errors] == ["format", "not_found"]
    if name == "out.parquet":
        indices = pq.read_table(name).column("index").to_pylist()
    else:
        indices = [line["index"] for line in lines(tmp_path / name.replace(".npy", ".sources.jsonl"))]
    assert indices == [index for index in range(20) if index not in (5, 7)]


def test_only_bad_images(embed, photos, tmp_path):
    """Where no image is good the output is there, and empty."""
    bad = photos / "bad.png"
    bad.write_bytes(b"nonsense")
    assert embed(bad, "-o", "out.npy", "--errors", "bad.jsonl").exit_code == 3
    assert np.load("out.npy").shape == (0, 4)
    assert len(lines(tmp_path / "bad.jsonl")) == 1
    assert embed(bad, "-o", "out.parquet").exit_code == 3
    assert pq.read_table("out.parquet").num_rows == 0


def test_summary_for_programs(embed, photos):
    """--json prints one document, with keys that stay."""
    (photos / "05.png").write_bytes(b"nonsense")
    (photos / "notes.txt").touch()
    result = embed("photos", "-o", "out.npy", "--json", "-q")
    assert (result.exit_code, result.stderr) == (3, "")
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") > 0
    assert summary.pop("images_per_second") > 0
    assert summary == {
        "output": "out.npy",
        "sources": "out.sources.jsonl",
        "errors": "out.npy.errors.jsonl",
        "images": 20,
        "embedded": 19,
        "failed": 1,
        "done_before": 0,
        "passed_over": 1,
        "kept": 0,
        "model": "tiny",
        "fingerprint": "space-1",
        "pool": True,
        "shape": [4],
    }


def test_quiet(embed, photos):
    """-q says nothing where all is well."""
    result = embed("photos", "-o", "out.npy", "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_list_from_a_file_and_from_standard_input(embed, photos, tmp_path, embeddings):
    """A list has a path a line; one that is there twice gets two rows."""
    text = "\ufeffphotos/03.png\r\n\r\nphotos/more/12.png\r\nphotos/03.png"
    (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
    assert embed("--from", "list.txt", "-o", "out.npy").exit_code == 0
    np.testing.assert_allclose(np.load("out.npy"), embeddings[[3, 12, 3]], atol=1e-3)
    assert embed("photos/00.png", "--from", "-", "-o", "piped.npy", input=text.encode()).exit_code == 0
    np.testing.assert_allclose(np.load("piped.npy"), embeddings[[0, 3, 12, 3]], atol=1e-3)
    assert [line["index"] for line in lines(tmp_path / "piped.sources.jsonl")] == [0, 1, 2, 3]


def test_what_a_folder_gives(photos):
    """Folders give the files that are named like images, sorted; hidden ones and links to folders are left out."""
    for name in ("b.JPEG", "a.txt", ".hidden.png", "photo.heic"):
        (photos / name).touch()
    (photos / ".cache").mkdir()
    (photos / ".cache" / "x.png").touch()
    (photos / "again").symlink_to(photos)
    found = find_inputs([str(photos)], None, recursive=True)
    names = [os.path.relpath(source, photos) for source in found.sources]
    assert names == [
        *(f"{index:02}.png" for index in range(10)),
        *("b.JPEG", "photo.heic"),
        *(f"more/{index}.png" for index in range(10, 20)),
    ]
    assert found.passed_over == {".txt": 1}
    flat = find_inputs([str(photos), "https://host/x.png"], None, recursive=False)
    assert len(flat.sources) == 13
    assert flat.sources[-1] == "https://host/x.png"


def test_the_sample_photos_need_no_note():
    """The folder of the first example holds images alone."""
    found = find_inputs([str(Path(__file__).parents[2] / "examples" / "photos")], None, recursive=True)
    assert (len(found.sources), found.describe_passed_over()) == (8, "")


def test_the_list_has_a_name(tmp_path, monkeypatch):
    """Two lists have one hash only if they are of the same files: relative paths count with their folder."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    here = find_inputs(["a.png", "b.png"], None, recursive=True)
    assert here.sha256() == find_inputs(["a.png", "b.png"], None, recursive=True).sha256()
    assert here.sha256() != find_inputs(["b.png", "a.png"], None, recursive=True).sha256()
    before, absolute = here.sha256(), find_inputs([str(tmp_path)], None, recursive=True)
    named = absolute.sha256()
    monkeypatch.chdir(tmp_path.parent)
    assert (here.sha256() != before, absolute.sha256() == named) == (True, True)


def test_names_that_are_no_unicode(embed, photos, files, tmp_path):
    """A file name of any bytes is embedded, and written in a form that every reader takes."""
    odd = os.fsdecode(b"photos/\xff.png")
    Path(odd).write_bytes(files[0])
    for name in ("out.parquet", "out.jsonl"):
        assert embed(odd, "-o", name).exit_code == 0
    assert pq.read_table("out.parquet").column("source").to_pylist() == ["photos/\\xff.png"]
    assert lines(tmp_path / "out.jsonl")[0]["source"] == "photos/\\xff.png"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["-o", "out.npy"], 2, "name images, folders or URLs"),
        (["photos", "-o", "out.csv"], 2, "must end in one of .parquet, .npy, .jsonl"),
        (["photos", "-o", "out.npy", "--timeout", "0"], 2, "--timeout is 0"),
        (["photos", "-o", "out.npy", "--header", "x"], 2, "no colon"),
        (["photos", "-o", "out.npy", "--token-env", "NO_SUCH_VARIABLE"], 2, "--token-env NO_SUCH_VARIABLE is empty"),
        (["photos", "-o", "out.npy", "--ca-file", "none.pem"], 2, "--ca-file none.pem does not exist"),
        (["photos", "-o", "nowhere/out.npy"], 2, "-o nowhere/out.npy cannot be written: nowhere does not exist; make"),
        (["photos", "-o", "out.npy", "--errors", "out.sources.jsonl"], 2, "give another name"),
        (["empty", "-o", "out.npy"], 2, "empty holds no image"),
        (["--from", "/dev/null", "-o", "out.npy"], 2, "/dev/null holds no image"),
        (["--from", "no.txt", "-o", "out.npy"], 2, "--from no.txt does not exist"),
        (["photo", "-o", "out.npy"], 2, "photo does not exist; did you mean photos?"),
        (["photos", "-o", "photos/more/10.npy", "--model", "absent"], 1, "does not have model absent"),
        (
            ["photos", "-o", "out.npy", "--expect-fingerprint", "other"],
            1,
            "space-1, and other was expected (--expect-fingerprint)",
        ),
    ],
)
def test_refusals(embed, photos, tmp_path, arguments, exit_code, says):
    """What cannot be done is said at once, on one line, and leaves nothing behind."""
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    result = embed(*arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert exit_code == 2 or result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_output_is_kept(embed, photos):
    """What is there is replaced only where the command says so."""
    assert embed("photos/03.png", "-o", "out.npy").exit_code == 0
    again = embed("photos", "-o", "out.npy")
    assert again.exit_code == 2
    assert (
        "-o out.npy exists; give --overwrite to replace it, --append to add new images to it, or another"
        in " ".join(again.stderr.replace("│", " ").split())
    )
    assert np.load("out.npy").shape == (1, 4)
    assert embed("photos", "-o", "out.npy", "--overwrite").exit_code == 0
    assert np.load("out.npy").shape == (20, 4)


def test_a_finished_output_of_texts_or_frames_is_kept(embed, photos, tmp_path):
    """Nothing can be added to it, and --append is not proposed."""
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "out.npy").write_bytes(b"")
    for given in (("--texts", "in.txt"), ("photos", "--every", "1s")):
        result = embed(*given, "-o", "out.npy")
        assert result.exit_code == 2
        said = " ".join(result.stderr.replace("│", " ").split())
        assert "-o out.npy exists; give --overwrite to replace it, or another name" in said


def test_overwriting_takes_old_errors_away(embed, photos, files, tmp_path):
    """An errors file is never of another run than the output beside it."""
    (photos / "05.png").write_bytes(b"nonsense")
    assert embed("photos", "-o", "out.npy").exit_code == 3
    (photos / "05.png").write_bytes(files[5])
    assert embed("photos", "-o", "out.npy", "--overwrite").exit_code == 0
    assert not (tmp_path / "out.npy.errors.jsonl").exists()


def test_the_model_may_be_left_out_where_there_is_one(embed, photos):
    """A server with several models wants one to be chosen, and names them."""
    result = embed("photos", "-o", "out.npy", model=None)
    assert result.exit_code == 1
    assert "choose one with --model: narrow, staged, tiny, wide" in result.stderr


@pytest.mark.usefixtures("subprocesses")
def test_parquet_without_pyarrow(tmp_path):
    """Without pyarrow the error is the pip command, before anything is done."""
    code = f"import sys; sys.modules['pyarrow'] = None; {MAIN}"
    result = subprocess.run(
        [sys.executable, "-c", code, "embed", str(tmp_path), "-o", str(tmp_path / "out.parquet")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "pip install 'vitriton[parquet]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("subprocesses")
def test_parquet_with_a_pyarrow_that_does_not_fit_numpy(tmp_path):
    """A pyarrow that refuses the numpy beside it is an error with both versions and the pip command."""
    refused = "pyarrow requires NumPy 2.0 or newer, found 1.26.4"
    module = tmp_path / "modules" / "pyarrow"
    described = module.with_name("pyarrow-26.0.0.dist-info") / "METADATA"
    for folder in (module, described.parent):
        folder.mkdir(parents=True)
    (module / "__init__.py").write_text(f"raise ImportError({refused!r})")
    described.write_text("Metadata-Version: 2.1\nName: pyarrow\nVersion: 26.0.0\n")
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "embed", str(tmp_path), "-o", str(tmp_path / "out.parquet")],
        env={**os.environ, "PYTHONPATH": str(module.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    said = " ".join(result.stderr.split())
    assert f"pyarrow 26.0.0 (beside numpy {np.__version__}) cannot be used: {refused}" in said
    assert "pip install 'vitriton[parquet]'" in said
    assert not list(tmp_path.glob("out*"))


def test_progress_lines(monkeypatch):
    """Elsewhere than on a terminal progress is a line now and then: rate, time left, errors."""
    monkeypatch.setattr("vitriton._console.progress._LINE_EVERY_S", 10.0)
    now_s, written = 0.0, []
    progress = Lines(1000, 400, 1, written.append, lambda: now_s)
    for index in range(100):
        now_s += 0.25
        progress.advance(failed=index == 0)
    assert written == [
        "440 of 1000 images (44%), 4.0 images/s, 2 min 20 s left, 2 errors",
        "480 of 1000 images (48%), 4.0 images/s, 2 min 10 s left, 2 errors",
    ]


def test_a_burst_is_no_rate():
    """The rate is that of all images of this part of the run, and not of those that came together, or before."""
    shown = io.StringIO()
    with _bar(Console(file=shown, force_terminal=True, width=120), 1000, 400, 0) as advance:
        time.sleep(0.1)
        for _ in range(8):
            advance(failed=False)
    rates = [float(rate) for rate in re.findall(r"([\d.]+) images/s", shown.getvalue())]
    assert 0 < rates[-1] <= 80


def test_progress_on_a_terminal(address, photos):
    """On a terminal there is a bar."""
    import pty

    reader, writer = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "embed", "--url", address, "--model", "tiny", "photos", "-o", "out.npy"],
        cwd=photos.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(writer)
        shown = io.BytesIO()
        while chunk := _read(reader):
            shown.write(chunk)
        os.close(reader)
    assert process.returncode == 0
    text = shown.getvalue().decode()
    assert "20/20" in text
    assert "images/s" in text
    assert "0 errors" in text


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


WINDOWS = """
import select, signal, sys
del signal.SIGHUP, select.poll
sys.modules["fcntl"] = None
"""


def test_without_the_names_that_windows_lacks(address, photos, tmp_path):
    """The command needs no SIGHUP, no poll and no fcntl."""
    arguments = ["embed", "--url", address, "--model", "tiny", "photos", "-o", "out.jsonl"]
    command = [sys.executable, "-c", f"{WINDOWS}{MAIN}", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(lines(tmp_path / "out.jsonl")) == 20
