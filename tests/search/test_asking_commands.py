"""`vitriton search query`, `duplicates`, `neighbors` and `export` on a store, without a server."""

import json
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from search.store_contract import SPACE, rows, vectors
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_search.stores import open_store


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Twelve photos of two kinds, of which one is there twice, two frames of a film, and a bad file."""
    monkeypatch.chdir(tmp_path)
    kinds = np.eye(8, dtype=np.float32)
    photos = np.concatenate([kinds[[0] * 6], kinds[[1] * 6]]) + 0.2 * vectors(12)
    photos[5] = photos[4]
    frames = kinds[[2, 2]] + 0.01 * vectors(2)
    ids = [*(f"/photos/{'cat' if n < 6 else 'dog'}/{n}.jpg" for n in range(12)), "/film.mp4#t=61", "/film.mp4#t=62.5"]
    with open_store("photos.lance", SPACE) as store:
        store.write(
            rows(
                [*ids, "/bad.jpg"],
                [*photos, *frames, None],
                source=[*ids[:12], "/film.mp4", "/film.mp4", "/bad.jpg"],
                width=[*range(100, 114), None],
                height=50,
                taken=[datetime(2025, 1, 1 + n) for n in range(12)] + [None] * 3,
                time_s=[*[None] * 12, 61.0, 62.5, None],
                error=[*[None] * 14, "truncated"],
            )
        )
    return tmp_path / "photos.lance"


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["search", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == code, done.output
    return done


def test_neighbors_of_a_row(store):
    done = run("query", "id:/photos/cat/4.jpg", "-k", 3)
    assert done.stderr == "row: /photos/cat/4.jpg\n"
    head, first, *rest = [line.split("\t") for line in done.stdout.splitlines()]
    assert head == ["SCORE", "SOURCE", "SIZE", "DATE"]
    assert first == ["1.000", "/photos/cat/5.jpg", "105x50", "2025-01-06"]
    assert len(rest) == 2
    assert run("query", "id:/photos/cat/4.jpg", "--quiet").stderr == ""


def test_frames_have_their_time(store):
    done = run("query", "id:/photos/cat/4.jpg", "--where", "time_s is not null")
    assert done.stdout.splitlines()[0] == "SCORE\tSOURCE\tTIME\tSIZE\tDATE"
    assert done.stdout.splitlines()[1].split("\t")[1:] in (
        ["/film.mp4", "1:01 - 1:02.5", size, ""] for size in ("112x50", "113x50")
    )
    apart = run("query", "id:/photos/cat/4.jpg", "--where", "time_s is not null", "--join", 1)
    assert len(apart.stdout.splitlines()) == 3


def test_names_cannot_command_a_terminal(store):
    """Control characters in a name are shown as escapes; for programs they are what they are."""
    odd = "\x1b]0;x\x07\n.jpg"
    with open_store(str(store)) as opened:
        opened.write(rows([odd], np.eye(8, dtype=np.float32)[:1], width=999))
    done = run("query", "id:/photos/cat/4.jpg", "--where", "width = 999")
    assert done.stdout.splitlines()[1].split("\t")[1] == r"\x1b]0;x\x07\n.jpg"
    document = json.loads(run("query", "id:/photos/cat/4.jpg", "--where", "width = 999", "--json").stdout)
    assert document["id"] == odd
    assert run("query", f"id:{odd}").stderr == "row: \\x1b]0;x\\x07\\n.jpg\n"


def test_answers_for_programs(store):
    answers = [json.loads(line) for line in run("query", "id:/photos/cat/4.jpg", "--json").stdout.splitlines()]
    assert len(answers) == 12
    assert answers[0]["id"] == "/photos/cat/5.jpg"
    assert answers[0]["taken"] == "2025-01-06T00:00:00"
    assert [answer["span"] for answer in answers if answer["span"]] == [{"start_s": 61.0, "end_s": 62.5, "frames": 2}]
    assert run("query", "id:/photos/cat/4.jpg", "--where", "width = 1", "--json").stdout == ""


def test_duplicates_for_people(store):
    done = run("duplicates", "--threshold", 0.9999)
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["GROUP", "SCORE", "SOURCE", "SIZE", "DATE"],
        ["1", "1.000", "/photos/cat/5.jpg", "105x50", "2025-01-06"],
        ["1", "1.000", "/photos/cat/4.jpg", "104x50", "2025-01-05"],
    ]
    curve = done.stderr.splitlines()
    assert curve[0].startswith("COSINE       PAIRS")
    assert curve[1].startswith("0.99 ")
    assert set(curve[1].split()[2]) == {"#"}
    assert curve[20].startswith("0.80 ")
    assert "1 group of 2 rows at 0.9999 or more (14 rows compared, 1 without a vector)" in done.stderr


def test_duplicates_for_programs(store):
    for how in ("--exact", "--approximate"):
        document = json.loads(run("duplicates", "--json", "--threshold", 0.9999, how).stdout)
        assert document["exact"] == (how == "--exact")
        assert [[row["id"] for row in group] for group in document["groups"]] == [
            ["/photos/cat/5.jpg", "/photos/cat/4.jpg"]
        ]
        assert len(document["curve"]) == 20


def test_scores_of_labels(store, tmp_path):
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"/photos/{k}/{n}.jpg,{k}\n" for n in range(13) for k in [("cat", "dog")[n > 5]])
    )
    done = run("neighbors", "--evaluate", "labels.csv", "-k", 3)
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["LABEL", "ROWS", "ACCURACY", "95% INTERVAL", "RECALL@3", "95% INTERVAL"],
        ["(all)", "12", "100.0%", "75.8 to 100.0", "100.0%", "75.8 to 100.0"],
        ["cat", "6", "100.0%", "61.0 to 100.0", "100.0%", "61.0 to 100.0"],
        ["dog", "6", "100.0%", "61.0 to 100.0", "100.0%", "61.0 to 100.0"],
    ]
    assert "1 of 13 labels are of no row: /photos/dog/12.jpg" in done.stderr
    assert f"{SPACE.model} (fingerprint {SPACE.fingerprint})" in done.stderr
    folders = ("neighbors", "--labels-from-folders", "-k", 3, "--where", "time_s is null", "--json")
    document = json.loads(run(*folders).stdout)
    assert (document["fingerprint"], document["k"], document["unlabeled"]) == (SPACE.fingerprint, 3, 0)
    assert document["all"]["accuracy"]["value"] == 1
    assert [score["label"] for score in document["labels"]] == ["cat", "dog"]


def test_an_export(store, tmp_path):
    done = run("export", "-o", "x.npy", "--where", "width < 103")
    assert done.stdout == f"3 vectors of {SPACE.model} in x.npy\n"
    assert np.load("x.npy").shape == (3, 8)
    assert "x.npy exists; give --overwrite" in run("export", "-o", "x.npy", code=2).stderr
    document = json.loads(run("export", "-o", "x.npy", "--overwrite", "--json").stdout)
    assert document == {
        "output": "x.npy",
        "sources": "x.sources.jsonl",
        "rows": 14,
        "model": SPACE.model,
        "fingerprint": SPACE.fingerprint,
        "shape": [8],
    }


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["query", "id:other"], "no row with the id other", 1),
        (["query", "id:"], "PHOTO|TEXT|ID is id: without an id", 2),
        (["query", "id:/bad.jpg"], "/bad.jpg has no vector: truncated", 1),
        (["query", "."], "PHOTO|TEXT|ID is ., a folder", 2),
        (["query", "id:a", "-k", "0"], "-k is 0", 2),
        (["query", "id:a", "--join", "-1"], "--join is -1", 2),
        (["query", "id:a", "--timeout", "0"], "--timeout is 0", 2),
        (["query", "id:a", "--where", "color = 'red'"], "--where \"color = 'red'\": color is no column", 2),
        (["query", "id:a", "--store", "other.lance"], "other.lance", 1),
        (["query", "id:a", "--url", "ftp://x"], "--url", 2),
        (["duplicates", "--threshold", "0"], "--threshold is 0; it must be above 0 and at most 1", 2),
        (["duplicates", "--threshold", "1.01"], "--threshold is 1.01", 2),
        (["duplicates", "--threshold", "nan"], "--threshold is nan", 2),
        (["duplicates", "--where", "("], "--where", 2),
        (["neighbors"], "give either a file of labels with --evaluate, or --labels-from-folders", 2),
        (["neighbors", "--labels-from-folders", "--evaluate", "photos.lance/rows.lock"], "give either", 2),
        (["neighbors", "--evaluate", "labels.csv"], "labels.csv does not exist", 2),
        (["neighbors", "--labels-from-folders", "-k", "101"], "-k is 101", 2),
        (["neighbors", "--labels-from-folders", "-k", "50"], "more than 50 labeled rows", 1),
        (["export", "-o", "x.csv"], "x.csv must end in one of .parquet, .npy, .jsonl", 2),
        (["export", "-o", "nowhere/x.npy"], "nowhere/x.npy cannot be written", 2),
        (["export"], "missing option '--output' / '-o'", 2),
    ],
)
def test_bad_input(store, tmp_path, arguments, text, code):
    """Says what is wrong, and writes nothing."""
    before = sorted(tmp_path.iterdir())
    done = run(*arguments, code=code)
    assert (text in " ".join(done.stderr.split()), done.stdout) == (True, ""), done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_labels_of_other_photos(store, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n/a.jpg,x\n/b.jpg,y\n/c.jpg,y\n/d.jpg,y\n")
    done = run("neighbors", "--evaluate", "labels.csv", code=1)
    assert done.stderr == "error: labels.csv: no path in it is in the store: /a.jpg, /b.jpg, /c.jpg and 1 more\n"


@pytest.mark.usefixtures("subprocesses")
def test_the_help_needs_no_store():
    """Neither LanceDB nor numpy is imported for it."""
    code = "import sys, vitriton_search.cli; print({'lancedb', 'numpy', 'pyarrow', 'sqlglot', 'PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
