"""The command `vitriton bench NAME`: the real perf_analyzer against a real Triton; not how fast anything is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import compare
import pytest
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_bench._document import FORMAT
from vitriton_bench._perf_analyzer import program as _perf_analyzer

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
COMPARE = ROOT / "bench" / "compare.py"
SHORT = ["--images", str(PHOTOS), "--seconds", "0.6"]
run = CliRunner().invoke


@pytest.mark.long
def test_a_sweep_of_a_running_server(server, tmp_path):
    """Both outputs, both protocols, with and without shared memory: each has throughput, latencies and the split."""
    target, page, plots = tmp_path / "bench.json", tmp_path / "page.md", tmp_path / "plots"
    where = ["--url", server.grpc_address, "--url", f"http://{server.http_address}"]
    what = ["--output", "pooled,unpooled", "--shared-memory", "none,system", "--concurrency", "2"]
    done = run(app, ["bench", "tiny-vit", *where, *what, *SHORT, "--json", str(target)])
    assert done.exit_code == 0, done.output
    made = run(compare.app, ["--from", str(target), "--markdown", str(page), "--plots", str(plots)])
    assert made.exit_code == 0, made.output
    document = json.loads(target.read_text())
    assert (document["format"], document["failed"], len(document["sweep"])) == (FORMAT, {}, 8)
    assert document["images"]["count"] == 8
    for row in document["sweep"]:
        assert row["inputs_per_s"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["split_ms"]["encode"] > 0
        assert row["split_ms"]["preprocess"] > 0
        assert 0 < row["busy"]["encode"] <= 1
        assert row["bottleneck"]
        shown = f"{row['inputs_per_s']:.4g}"
        assert shown in done.stdout
        assert shown in page.read_text()
    assert sorted(path.name for path in plots.iterdir()) == ["stages.svg", "throughput.svg"]
    assert "](plots/throughput.svg)" in page.read_text()


@pytest.mark.parametrize("running", [True, False], ids=["running", "of its own"])
def test_a_sweep_of_texts(running, texts_repository, tmp_path, request):
    """A model for texts is found by its name; each load has texts/s, latencies, the split and the padding."""
    target, page = tmp_path / "bench.json", tmp_path / "page.md"
    where = ["--repository", str(texts_repository)]
    if running:
        where = ["--url", request.getfixturevalue("texts_server").grpc_address]
    what = ["--output", "pooled,unpooled", "--concurrency", "2", "--batch-size", "8", "--seconds", "0.6"]
    done = run(app, ["bench", "bert", *where, *what, "--json", str(target)])
    assert done.exit_code == 0, done.output
    document = json.loads(target.read_text())
    assert document["failed"] == {}
    assert [row["kind"] for row in document["sweep"]] == ["text_pooled", "text_unpooled"]
    assert document["texts"]["count"] == 256
    assert 2 < document["texts"]["least_tokens"] < document["texts"]["most_tokens"] == 72  # the most of this model
    for row in document["sweep"]:
        assert row["inputs_per_s"] > 0
        assert row["split_ms"]["encode"] > 0
        assert row["padding"] > 1.2  # eight texts of different lengths in a request
    assert run(compare.app, ["--from", str(target), "--markdown", str(page)]).exit_code == 0
    for text in (done.stdout, page.read_text()):
        assert "texts/s" in text
        assert "images" not in text


def test_texts_in_shared_memory(texts_server, tmp_path):
    """The region of an unpooled output has room for the longest text, of each input in a request."""
    target = tmp_path / "bench.json"
    what = ["--output", "pooled,unpooled", "--shared-memory", "system", "--concurrency", "2", "--batch-size", "8"]
    done = run(
        app, ["bench", "bert", "--url", texts_server.grpc_address, *what, "--seconds", "0.6", "--json", str(target)]
    )
    document = json.loads(target.read_text())
    assert (done.exit_code, document["failed"]) == (0, {}), done.output
    assert [row["shared_memory"] for row in document["sweep"]] == ["system"] * 2


def test_a_server_has_padding_even_for_texts_alone(texts_server, tmp_path):
    """A text is padded to one of a few lengths; 5 tokens become 8."""
    file, target = tmp_path / "texts.txt", tmp_path / "bench.json"
    file.write_text("the\n")
    what = ["--texts", str(file), "--concurrency", "1", "--seconds", "0.6", "--json", str(target)]
    done = run(app, ["bench", "bert", "--url", f"http://{texts_server.http_address}", *what])
    assert done.exit_code == 0, done.output
    document = json.loads(target.read_text())
    tokens = document["texts"]["mean_tokens"]
    assert document["sweep"][0]["padding"] == pytest.approx(-(-tokens // 4) * 4 / tokens, rel=1e-3)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_proxies_of_the_environment_are_not_measured(scheme, server, tmp_path, monkeypatch):
    """Neither the load nor the questions about it go through one."""
    _perf_analyzer.get(None, lambda text: None)  # what pip may need a proxy for
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    target = tmp_path / "bench.json"
    address = server.grpc_address if scheme == "grpc" else server.http_address
    done = run(app, ["bench", "tiny-vit", "--url", f"{scheme}://{address}", *SHORT, "--json", str(target)])
    assert done.exit_code == 0, done.output
    assert json.loads(target.read_text())["sweep"]


def test_a_sweep_of_a_server_of_its_own(repository, tmp_path):
    """Without --url it serves the export, and with several images in a request it counts images."""
    target = tmp_path / "bench.json"
    what = ["--batch-size", "4", "--concurrency", "1"]
    done = run(app, ["bench", "tiny-vit", "--repository", str(repository), *what, *SHORT, "--json", str(target)])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(target.read_text())["sweep"]
    assert row["inputs_per_batch"] == pytest.approx(4)
    assert row["inputs_per_s"] * row["mean_ms"] / 1e3 == pytest.approx(4, rel=0.5)  # one request after the other


@pytest.mark.parametrize("what", ["images", "texts"])
def test_the_readmes_perf_analyzer(what, request, subprocesses, torch, tmp_path):
    """The commands that bench/README.md shows for plain perf_analyzer work as they stand there."""
    server = request.getfixturevalue("server" if what == "images" else "texts_server")
    text = (ROOT / "bench" / "README.md").read_text()
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "\nperf_analyzer " in block]
    assert len(blocks) == 2
    block = blocks[what == "texts"]
    lines = re.sub(r" *\\\n *", " ", block).splitlines()
    write = next(line for line in lines if line.startswith("vitriton bench ")).split()
    measure = next(line for line in lines if line.startswith("perf_analyzer ")).split()
    where = next(line for line in lines if line.startswith("export PATH="))
    payload = str(tmp_path / "payload.json")
    replaced = {
        "photos": str(PHOTOS),
        "payload.json": payload,
        "localhost:8001": server.grpc_address,
        "dinov2-small_pooled": "tiny-vit_pooled",
        "texts_text_pooled": "bert_text_pooled",
    }
    assert run(app, [replaced.get(part, part) for part in write[1:]]).exit_code == 0
    if shutil.which("perf_analyzer") is None:
        cache = tmp_path / ".cache" / "vitriton"
        cache.parent.mkdir()
        cache.symlink_to(_perf_analyzer.cache_folder())  # where README says, with another home
        _perf_analyzer.get(None, lambda text: None)
    command = [replaced.get(part, part) for part in measure]
    command += ["--measurement-interval", "300", "--max-trials", "20", "--stability-percentage", "999"]
    shell = ["sh", "-c", f'{where}\nexec "$@"', "sh", *command]
    done = subprocess.run(shell, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput" in done.stdout


def test_ctrl_c_keeps_what_was_measured(server, tmp_path):
    """The points that were done are shown and written; exit code 130, and perf_analyzer has ended."""
    target = tmp_path / "bench.json"
    command = [str(Path(sys.executable).with_name("vitriton")), "bench", "tiny-vit", "--url", server.grpc_address]
    command += ["--concurrency", "1,2,3", "--json", str(target), "--images", str(PHOTOS), "--seconds", "3"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        deadline = time.monotonic() + 180
        while not target.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    document = json.loads(target.read_text())
    assert document["interrupted"] is True
    assert 1 <= len(document["sweep"]) < 3
    assert "The run was interrupted" in output


def test_a_point_that_fails_costs_itself_only(server, tmp_path):
    """An interrupted or impossible point is told, and the others are measured."""
    target = tmp_path / "bench.json"
    own = ["--batch-size", "1000,1", "--concurrency", "1"]  # more than the model takes in a request
    done = run(app, ["bench", "tiny-vit", "--url", server.grpc_address, *own, *SHORT, "--json", str(target)])
    assert done.exit_code == 0, done.output
    document = json.loads(target.read_text())
    assert len(document["sweep"]) == 1
    assert "batch" in str(document["failed"])


def test_a_sweep_that_measures_nothing_keeps_the_file_of_before(server, tmp_path):
    """No point could be measured: exit code 1, and --json is as it was."""
    target = tmp_path / "bench.json"
    target.write_text("before")
    own = ["--batch-size", "1000", "--concurrency", "1", "--json", str(target)]
    done = run(app, ["bench", "tiny-vit", "--url", server.grpc_address, *own, *SHORT])
    assert done.exit_code == 1, done.output
    assert "batch" in done.stderr
    assert target.read_text() == "before"


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("sweep", signal.SIGINT),
        ("report", signal.SIGTERM),
        pytest.param("sweep", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("report", signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_signal_before_anything_is_measured(what, number, server, tmp_path):
    """Exit code 128 and the signal; what was there before is still there, and no temporary folder is left."""
    target, page, temporary = tmp_path / "bench.json", tmp_path / "page.md", tmp_path / "temporary"
    temporary.mkdir()
    target.write_text("before")
    page.write_text("before")
    command = [str(Path(sys.executable).with_name("vitriton")), "bench", "tiny-vit", "--url", server.grpc_address]
    command += ["--seconds", "30"]
    if what == "report":
        command = [sys.executable, str(COMPARE), "--quick", "--work", str(tmp_path / "work"), "--markdown", str(page)]
    command += ["--images", str(PHOTOS), "--json", str(target)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 180
        while not any(temporary.glob("vitriton-bench-*/*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "interrupted before anything was measured" in errors
    assert (target.read_text(), page.read_text()) == ("before", "before")
    assert not list(temporary.glob("vitriton-bench-*"))


def test_a_broken_image_is_named_before_anything_is_sent(tmp_path):
    """Also where only the payload is written; what was there stays."""
    (tmp_path / "half.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes()[:9000])
    payload = tmp_path / "payload.json"
    payload.write_text("before")
    for command in (["bench", "tiny-vit", "--url", "localhost:1"], ["bench", "--write-payload", str(payload)], []):
        done = run(app if command else compare.app, [*command, "--images", str(tmp_path)], env={"COLUMNS": "1000"})
        assert done.exit_code == 2, done.output
        assert f"{tmp_path / 'half.jpg'} cannot be decoded" in done.stderr
    assert payload.read_text() == "before"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["other"], 2, "has no model other_preprocess"),
        (["tiny-vit", "--images", "{tmp}"], 2, "has no .jpg, .jpeg, .png or .webp files"),
        (["tiny-vit", "--url", "127.0.0.1:9"], 1, "does not describe the model tiny-vit_pooled"),
        (["tiny-vit", "--url", "grpcs://127.0.0.1:9"], 2, "uses TLS, which cannot be measured"),
        (["tiny-vit", "--url", "127.0.0.1:9", "--protocol", "http"], 2, "no --url has the scheme http"),
        (["tiny-vit", "--concurrency", "1,x"], 2, "not a list of numbers"),
        (["tiny-vit", "--output", "tokens"], 2, "'tokens', which is not one of pooled, unpooled"),
        (["tiny-vit", "--minutes", "5"], 2, "no such option: --minutes"),
        (
            ["tiny-vit", "--json", "/proc/none/bench.json"],
            2,
            "--json /proc/none/bench.json cannot be written: /proc/none does not exist",
        ),
        (["tiny-vit", "--json", "{tmp}"], 2, "is a folder; name a file"),
    ],
)
def test_what_it_cannot_measure(arguments, code, message, repository, tmp_path):
    """One line says what is wrong; a mistake on the command line is exit code 2."""
    filled = [text.format(tmp=tmp_path) for text in arguments]
    images = [] if "--images" in filled else ["--images", str(PHOTOS)]
    done = run(app, ["bench", *filled, *images, "--repository", str(repository)], env={"COLUMNS": "1000"})
    assert done.exit_code == code, done.output
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize("option", ["--concurrency", "--batch-size", "--url", "--repository"])
def test_a_forgotten_name(option):
    """Nothing is measured without it; and the report of twenty minutes takes no option of a sweep."""
    done = run(app, ["bench", option, "1"], env={"COLUMNS": "200"})
    assert done.exit_code == 2, done.output
    assert "name the export to measure" in done.stderr
    done = run(compare.app, [option, "1"], env={"COLUMNS": "200"})
    assert done.exit_code == 2, done.output
    assert f"No such option: {option}" in done.stderr
