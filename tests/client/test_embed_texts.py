"""`vitriton embed --texts`: the files that it takes, what it writes, and that it can be interrupted."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from client.conftest import write_model
from client.text_model import write_text_model
from support.steps import EMBED, go_on, start
from typer.testing import CliRunner
from vitriton import Client
from vitriton._console.failure import CommandFailed
from vitriton._console.signals import Signals
from vitriton._errors import Unreadable
from vitriton._tables.rows import Columns, JsonLines
from vitriton.cli import app
from vitriton.commands.embed.embedding import Embedding
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import WorkFolder
from vitriton.commands.embed.texts import open_texts
from vitriton.testing import FakeTransport


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """A Triton with `words`, which takes texts, and `photos`, which takes images."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    for name in ("words_text_pooled", "words_text_unpooled"):
        write_text_model(repository, name)
    write_model(repository, "photos_pooled", fingerprint="space-1")
    with TritonServer(repository) as running:
        yield running


@pytest.fixture
def embed(server, tmp_path, monkeypatch):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **settings):
        return CliRunner().invoke(app, ["embed", "--url", server.grpc_address, *map(str, arguments)], **settings)

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(name, text_column=None, id_column=None):
    """The names of a file's texts, and its texts or the codes of what is wrong with them."""
    with open_texts(str(name), text_column, id_column, None, quiet=True) as texts:
        read = [row.value for row in texts._file.rows()]
        assert texts.total == len(read)
        return [name.source for name in texts.names()], [
            each.code if isinstance(each, Unreadable) else each for each in read
        ]


def test_lines(tmp_path, monkeypatch):
    """A text is a line, with LF or CRLF; an empty line is an empty text, so that numbers of lines and rows agree."""
    monkeypatch.chdir(tmp_path)
    data = b"\xef\xbb\xbfone\r\n\r\ntwo \x0c \xe2\x80\xa8 \rthree\n\xff\n  four"
    (tmp_path / "a.txt").write_bytes(data)
    names, texts = rows_of("a.txt")
    assert names == [f"a.txt:{number}" for number in range(1, 6)]
    assert texts == ["one", "", "two \x0c \u2028 \rthree", "encoding", "  four"]
    (tmp_path / "b.txt").write_bytes(data + b"\n")
    assert rows_of("b.txt")[1] == texts


def test_a_line_that_is_too_long(tmp_path, monkeypatch):
    """A line without an end is not kept in memory; the lines behind it are read."""
    monkeypatch.setattr("vitriton._tables.rows._MAX_LINE_BYTES", 10)
    monkeypatch.setattr("vitriton._tables.rows._CHUNK_BYTES", 4)
    for ends in ("", "\n"):
        (tmp_path / "a.txt").write_text(f"0123456789\n0123456789x\nx\n{'x' * 50}{ends}")
        assert rows_of(tmp_path / "a.txt")[1] == ["0123456789", "too_large", "x", "too_large"]


def test_json_lines(tmp_path, monkeypatch):
    """A text is a column of an object; what is not one, or has none, is a bad row."""
    monkeypatch.chdir(tmp_path)
    rows = [
        *('{"id": 7, "text": "one"}', '{"text": "two", "id": "b"}', '{"id": 8}', '{"id": 9, "text": null}'),
        *('{"id": 10, "text": ["x"]}', "[1]", "", '{"text": "cut', '{"id": 11, "text": "\\ud800"}', "[" * 100_000),
        *('{"id": null, "text": "x"}', '{"id": true, "text": "x"}', '{"id": "\\u0000", "text": "x"}'),
        *('{"id": "\\udfff", "text": "x"}', '{"id": "", "text": "x"}', '{"text": "x"}'),
    ]
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(rows).encode() + b'\n{"id": 12, "text": "\xff"}\n')
    names, texts = rows_of("a.jsonl")
    assert (names[0], names[-1]) == ("a.jsonl:1", "a.jsonl:17")
    bad = ["kind"] * 4 + ["corrupt"] * 2 + ["\ud800", "corrupt"]
    assert texts == ["one", "two", *bad, *["x"] * 6, "encoding"]
    names, texts = rows_of("a.jsonl", "text", "id")
    places = [f"a.jsonl:{number}" for number in range(1, 18)]
    assert names == ["7", "b", "8", "9", "10", *places[5:8], "11", *places[9:]]
    assert texts == ["one", "two", *bad, *["kind"] * 3, "encoding", *["kind"] * 2, "encoding"]


def test_csv(tmp_path, monkeypatch):
    """A text is a cell, which may hold commas and line ends; a row that is broken or too short is a bad one."""
    monkeypatch.chdir(tmp_path)
    rows = [b'1,"one, two\nlines"', b"", b'2,""', b"3", b'4,a"b', b'5,"x"y', b"6," + b"x" * 200_000, b"7,end"]
    (tmp_path / "a.csv").write_bytes(b"id,text\r\n" + b"\r\n".join(rows))
    expected = ["one, two\nlines", "", "kind", 'a"b', "corrupt", "corrupt", "end"]
    assert rows_of("a.csv") == ([f"a.csv:{number}" for number in range(1, 8)], expected)
    assert rows_of("a.csv", "text", "id")[0] == ["1", "2", "3", "4", "a.csv:5", "a.csv:6", "7"]


def test_parquet_columns(tmp_path, monkeypatch):
    """Text in any of Arrow's forms; a null, and a text that is not UTF-8, are bad rows alone."""
    monkeypatch.chdir(tmp_path)
    texts = ["one", None, "", "zwölf", "one"] * 200
    damaged = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffb")]
    )
    expected = ["kind" if text is None else text for text in texts]
    for column in (pa.array(texts), pa.array(texts, pa.large_string()), pa.array(texts).dictionary_encode()):
        table = pa.table({"key": pa.array(range(1000), pa.uint32()), "text": column, "other": [0.5] * 1000})
        pq.write_table(table, "a.parquet", row_group_size=300)
        assert rows_of("a.parquet") == ([f"a.parquet:{number}" for number in range(1, 1001)], expected)
        assert rows_of("a.parquet", "text", "key") == (list(map(str, range(1000))), expected)
    pq.write_table(pa.table({"body": damaged}), "b.parquet")
    assert rows_of("b.parquet", "body")[1] == ["a", "encoding", "b"]
    assert rows_of("a.parquet", "text", "text")[0][:3] == ["one", "a.parquet:2", "a.parquet:3"]


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "out.jsonl"])
def test_outputs(embed, tmp_path, name):
    """They are those of images; a bad text has no row, but a line in the errors file that tells its place."""
    good = ['{"id": "a", "text": "0 x"}', '{"id": "c", "text": "2"}', '{"id": "e", "text": "4 y z"}']
    rows = [good[0], '{"id": "b"}', good[1], "{", good[2]]
    too_long = json.dumps({"id": "f", "text": "x" * 2000})
    (tmp_path / "in.jsonl").write_text("\n".join([*rows, too_long]))
    result = embed("--texts", "in.jsonl", "--id-column", "id", "-o", name)
    assert (result.exit_code, result.stderr) == (3, "")
    assert result.stdout.startswith(f"3 texts embedded into {name} in ")
    assert " texts/s; 3 texts could not be: see " in result.stdout
    vectors, origins = read(tmp_path / name)
    assert [vector.tolist() for vector in vectors] == [[0, 2, 3], [2, 1, 1], [4, 3, 5]]
    assert origins == [(0, "a"), (2, "c"), (4, "e")]
    assert [list(error.values()) for error in lines(tmp_path / f"{name}.errors.jsonl")] == [
        [1, "b", "in.jsonl:2: has no column 'text'", "kind"],
        [3, "in.jsonl:4", "in.jsonl:4: is not JSON: Expecting property name enclosed in double quotes at position 1",
         "corrupt"],
        [5, "f", "in.jsonl:6: 2000 bytes are over the model's limit of 1000 (max_text_bytes)", "too_large"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "out.jsonl"])
def test_unpooled(embed, tmp_path, name):
    """Each text has its own number of tokens, in every format."""
    texts = ["a bb", "", "ccc", "a b c d e f g h i j"]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    result = embed("--texts", "in.txt", "-o", name, "--unpooled", "--json")
    assert result.exit_code == 3
    summary = json.loads(result.stdout)
    assert (summary["shape"], summary["pool"], summary["truncated"], summary["texts"]) == ([None, 2], False, 1, 4)
    vectors, origins = read(tmp_path / name)
    expected = [[[0, 1], [1, 2]], [[0, 3]], [[place, 1] for place in range(8)]]
    assert [vector.tolist() for vector in vectors] == expected
    assert origins == [(0, "in.txt:1"), (2, "in.txt:3"), (3, "in.txt:4")]


def read(path):
    """The embeddings of an output, and the index and source of each, as a user reads them."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        shape = [-1 if size is None else size for size in json.loads(table.schema.metadata[b"shape"])]
        vectors = [np.array(flat).reshape(shape) for flat in table.column("embedding").to_pylist()]
        return vectors, list(zip(*(table.column(name).to_pylist() for name in ("index", "source")), strict=True))
    named = lines(path.with_suffix(".sources.jsonl") if path.suffix == ".npy" else path)
    if path.suffix == ".jsonl":
        vectors = [np.array(line["embedding"]) for line in named]
    else:
        vectors = list(np.load(path))
        if "tokens" in named[0]:
            vectors = np.split(np.load(path), np.cumsum([line["tokens"] for line in named])[:-1])
    return vectors, [(line["index"], line["source"]) for line in named]


def test_prompts(embed, tmp_path):
    """A prompt stands before each text, and in what describes the vectors."""
    (tmp_path / "in.txt").write_text("cat\ndog\n")
    result = embed("--texts", "in.txt", "--prompt", "passage", "-o", "out.parquet", "--json")
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["prompt"], summary["failed"]) == (0, "passage", 0)
    assert "passed_over" not in summary
    table = pq.read_table("out.parquet")
    assert table.column("embedding").to_pylist() == [[2, 3, 14]] * 2
    assert table.schema.metadata[b"prompt"] == b"passage"
    summary = json.loads(embed("--texts", "in.txt", "--no-prompt", "-o", "none.jsonl", "--json").stdout)
    assert (summary["prompt"], lines(tmp_path / "none.jsonl")[0]["embedding"]) == (None, [-1, 1, 3])
    result = embed("--texts", "in.txt", "--prompt", "nothing", "-o", "out.npy")
    assert (result.exit_code, result.stderr) == (
        1, "error: --prompt is 'nothing', which must be the name of a prompt, and the model has 'query', 'passage'\n",
    )  # fmt: skip
    assert not list(tmp_path.glob("out.npy*"))


@pytest.mark.parametrize(("prompt", "named", "sent"), [(None, "query", b"query: cat"), ("", None, b"cat")])
def test_the_default_prompt(tmp_path, prompt, named, sent):
    """It is used, and named in the outputs, unless none is asked for."""
    (tmp_path / "in.txt").write_text("cat\n")
    fake = FakeTransport(prompts={"query": "query: "}, parameters={"default_prompt": "query"})
    with (
        open_texts(str(tmp_path / "in.txt"), None, None, prompt, quiet=True) as texts,
        Client("fake", model="m", transport=fake) as client,
    ):
        assert texts.prompt(client) == named
        assert len(list(texts.stream(client, 0, pool=True))) == 1
    assert fake.requests[-1].images == [sent]


def test_standard_input(embed, tmp_path):
    """Lines, or with a column JSON Lines; a pipe with a name is read once, too."""
    assert embed("--texts", "-", "-o", "out.npy", input=b"1\r\n2\n").exit_code == 0
    assert read(tmp_path / "out.npy")[1] == [(0, "stdin:1"), (1, "stdin:2")]
    data = json.dumps({"body": "3", "id": 9}).encode()
    arguments = ["--texts", "-", "--text-column", "body", "--id-column", "id"]
    assert embed(*arguments, "-o", "out.jsonl", input=data).exit_code == 0
    assert lines(tmp_path / "out.jsonl")[0]["source"] == "9"
    os.mkfifo("pipe.txt")
    with subprocess.Popen(["sh", "-c", "echo 4 > pipe.txt"], cwd=tmp_path):
        assert embed("--texts", "pipe.txt", "-o", "piped.npy").exit_code == 0
    assert np.load("piped.npy")[:, 0].tolist() == [4]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["x.png", "--texts", "in.txt"], 2, "--texts and images cannot be embedded together"),
        (["--from", "in.txt", "--texts", "in.txt"], 2, "--texts and images cannot be embedded together"),
        (["x.png", "--prompt", "query"], 2, "--prompt is for texts; give their file with --texts"),
        (["x.png", "--id-column", "id"], 2, "--id-column is for the columns of a list (or of a file of texts)"),
        (["x.png", "--no-prompt"], 2, "--no-prompt is for texts"),
        (["--texts", "in.txt", "--prompt", "query", "--no-prompt"], 2, "either --prompt or --no-prompt, not both"),
        (["--texts", "in.txt", "--preprocess", "client"], 2, "--preprocess is for images"),
        (["--texts", "in.tsv"], 2, "--texts in.tsv must end in one of .txt, .csv, .jsonl, .parquet"),
        (["--texts", "im.txt"], 2, "--texts im.txt does not exist; did you mean in.txt?"),
        (["--texts", "empty.txt"], 2, "--texts empty.txt has no texts"),
        (["--texts", "in.txt", "--text-column", "x"], 2, "--text-column is for .csv, .jsonl and .parquet; in.txt has"),
        (["--texts", "in.jsonl"], 2, "--text-column 'text' is not a column of in.jsonl; it has id, body"),
        (["--texts", "in.jsonl", "--text-column", "body", "--id-column", "x"], 2, "--id-column 'x' is not a column"),
        (["--texts", "in.parquet", "--text-column", "id"], 2, "--text-column 'id' of in.parquet holds int64, not text"),
        (["--texts", "in.parquet", "--text-column", "x"], 2, "not a column of in.parquet; it has id, body, score"),
        (["--texts", "in.parquet", "--text-column", "body", "--id-column", "score"], 2, "holds double; take text or"),
        (["--texts", "nul.txt"], 2, "--texts nul.txt is not a file of texts in UTF-8: byte 1 is a null character"),
        (["--texts", "parquet.txt"], 2, "parquet.txt is a Parquet file; give it a name that ends in .parquet"),
        (["--texts", "bad.parquet"], 2, "--texts bad.parquet cannot be read as a Parquet file"),
        (["--texts", "in.txt", "--errors", "in.txt"], 2, "--errors in.txt is a file that the command reads; give"),
        (["--texts", "in.txt", "--model", "photos"], 1, "has no texts; it embeds images"),
        (["--texts", "in.txt", "--model", "absent"], 1, "does not have model absent"),
    ],
)  # fmt: skip
def test_refusals(embed, tmp_path, arguments, exit_code, says):
    """What cannot be done is said before any work, and leaves nothing behind."""
    for name in ("x.png", "in.tsv", "empty.txt"):
        (tmp_path / name).touch()
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "in.jsonl").write_text('{"id": 1, "body": "a"}\n')
    (tmp_path / "nul.txt").write_bytes(b"a\0b\n")
    for name in ("bad.parquet", "parquet.txt"):
        (tmp_path / name).write_text("PAR1 nonsense PAR1")
    pq.write_table(pa.table({"id": [1], "body": ["a"], "score": [0.5]}), tmp_path / "in.parquet")
    before = sorted(tmp_path.rglob("*"))
    result = embed(*arguments, "-o", "out.npy")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert says in " ".join(result.stderr.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_the_output_does_not_replace_the_texts(embed, tmp_path):
    """Not even with --overwrite."""
    (tmp_path / "in.jsonl").write_text('{"text": "1"}\n')
    result = embed("--texts", "in.jsonl", "-o", "in.jsonl", "--overwrite")
    assert (result.exit_code, lines(tmp_path / "in.jsonl")) == (2, [{"text": "1"}])


def test_texts_without_pyarrow(embed, tmp_path, monkeypatch):
    """The error is the pip command."""
    (tmp_path / "in.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = embed("--texts", "in.parquet", "-o", "out.npy")
    assert result.exit_code == 1
    assert "reading .parquet needs pyarrow; install it with: pip install 'vitriton[parquet]'" in result.stderr


def command(address, folder, *options):
    texts = ["--texts", "in.jsonl", "--id-column", "id", "--model", "words"]
    return ["embed", "--url", address, *texts, "-o", f"{folder}/out.npy", *options]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("option", "number"),
    [
        ("--pool", signal.SIGKILL),
        ("--unpooled", signal.SIGINT),
        pytest.param("--pool", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("--unpooled", signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_interrupted(server, tmp_path, monkeypatch, number, option):
    """The same command continues, and its files are those of a run that nothing interrupted."""
    monkeypatch.chdir(tmp_path)
    entries = [{"id": f"id-{index}", "text": f"{index}{' x' * (index % 9)}"} for index in range(20_000)]
    entries[3] = {"id": "id-3"}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    assert CliRunner().invoke(app, command(server.grpc_address, "whole", option)).exit_code == 3
    with start(EMBED, command(server.grpc_address, "cut", option)) as process:
        go_on(process, 1)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    if number == signal.SIGINT:
        assert " of 20000 texts are done and saved in cut/out.npy.partial; repeat the command to continue" in errors
    result = CliRunner().invoke(app, command(server.grpc_address, "cut", option, "--json"))
    assert result.exit_code == 3
    assert 0 < json.loads(result.stdout)["done_before"] < 20_000
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "cut").iterdir() if path.is_dir()] == []


def test_a_changed_file_is_noticed(tmp_path, monkeypatch):
    """Before a run is continued, and while a file is read."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')

    def identity():
        with open_texts("in.jsonl", None, None, None, quiet=True) as texts:
            return texts.sha256()

    first = identity()
    assert identity() == first
    path.write_text('{"text": "a"}\n{"text": "c"}\n')
    assert identity() != first
    file = JsonLines(path, "in.jsonl", Columns("text", None))
    file.check_unchanged()
    with path.open("a") as other:
        other.write('{"text": "d"}\n')
    with pytest.raises(CommandFailed, match=r"in\.jsonl was changed while it was read"):
        file.check_unchanged()


def test_a_file_that_changes_during_a_run(tmp_path, monkeypatch):
    """What was read of it is not taken for the whole."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("".join(f"{index}\n" for index in range(1000)))

    def advance(*, failed):
        (tmp_path / "in.txt").write_text("other\n")

    with open_texts("in.txt", None, None, None, quiet=True) as texts, WorkFolder(tmp_path / "work") as work:
        job = Job(model="m", fingerprint="fake", pool=True, shape=(2,), inputs=1000, inputs_sha256="0", tower="text")
        work.begin(job, texts.names())
        with Signals() as signals, Client("fake", model="m", transport=FakeTransport(dim=2)) as client:
            embedding = Embedding(work, job, texts, lambda: client, signals, advance)
            with pytest.raises(CommandFailed, match=r"in\.txt was changed while it was read"):
                embedding.run(client)
        assert work.done < 1000


LARGE = """
import json, sys
from pathlib import Path
from vitriton import Client
from vitriton._console.signals import Signals
from vitriton.commands.embed.embedding import Embedding
from vitriton.commands.embed.job import Job
from vitriton.commands.embed.journal import WorkFolder
from vitriton.commands.embed.outputs import Paths, draft, publish
from vitriton.commands.embed.texts import open_texts
from vitriton.testing import FakeTransport
import pyarrow.parquet

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024

class Forgetful(FakeTransport):
    def send(self, request, timeout_s):
        for kept in (self.requests, self.sent, self.timeouts_s):
            kept.clear()
        return super().send(request, timeout_s)

def run(name):
    with open_texts(name, "text", "id", None, quiet=True) as texts, Signals() as signals:
        paths = Paths(output=Path(name + ".npy"), errors=Path("errors.jsonl"))
        with WorkFolder(paths.work) as work, Client("x", model="m", transport=Forgetful(max_batch_size=64)) as client:
            job = Job(model="m", fingerprint="fake", pool=True, shape=(8,), inputs=texts.total,
                      inputs_sha256=texts.sha256(), tower="text")
            work.begin(job, texts.names())
            Embedding(work, job, texts, lambda: client, signals, lambda *, failed: None).run(client)
            assert (work.done, work.failed) == (texts.total, 0)
            publish(work, paths, draft(work, paths))

run("small" + sys.argv[1])
before = peak()
run("large" + sys.argv[1])
print(peak() - before)
"""


@pytest.mark.parametrize("suffix", [".jsonl", pytest.param(".parquet", marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_file(subprocesses, tmp_path, suffix):
    """A file of 100 MB takes no more memory than one of 10 MB, but for the noise of an allocator."""
    for name, count in (("small", 2_000), ("large", 20_000)):
        entries = [{"id": index, "text": f"{index} " + "x" * 5_000} for index in range(count)]
        if suffix == ".jsonl":
            (tmp_path / "small.jsonl").with_stem(name).write_text("".join(json.dumps(each) + "\n" for each in entries))
        else:
            pq.write_table(pa.Table.from_pylist(entries), tmp_path / f"{name}.parquet", compression=None,
                           use_dictionary=False)  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LARGE, suffix], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30, done.stdout
