"""The command `vitriton bench NAME`: the real perf_analyzer against a real Triton; not how fast anything is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_bench import _perf_analyzer
from vitriton_bench._document import FORMAT

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
SHORT = ["--images", str(PHOTOS), "--seconds", "0.6"]
run = CliRunner().invoke


@pytest.mark.long
def test_a_sweep_of_a_running_server(server, tmp_path):
    """Both outputs, both protocols, with and without shared memory: each has throughput, latencies and the split."""
    target, page, plots = tmp_path / "bench.json", tmp_path / "page.md", tmp_path / "plots"
    where = ["--url", server.grpc_address, "--url", f"http://{server.http_address}"]
    what = ["--output", "pooled,unpooled", "--shared-memory", "none,system", "--concurrency", "2"]
    files = ["--json", str(target), "--markdown", str(page), "--plots", str(plots)]
    done = run(app, ["bench", "tiny-vit", *where, *what, *SHORT, *files])
    assert done.exit_code == 0, done.output
    document = json.loads(target.read_text())
    assert (document["format"], document["failed"], len(document["sweep"])) == (FORMAT, {}, 8)
    assert document["images"]["count"] == 8
    for row in document["sweep"]:
        assert row["images_per_s"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["split_ms"]["encode"] > 0
        assert row["split_ms"]["preprocess"] > 0
        assert 0 < row["busy"]["encode"] <= 1
        assert row["bottleneck"]
        shown = f"{row['images_per_s']:.4g}"
        assert shown in done.stdout
        assert shown in page.read_text()
    assert sorted(path.name for path in plots.iterdir()) == ["stages.svg", "throughput.svg"]
    assert "](plots/throughput.svg)" in page.read_text()


def test_a_sweep_of_a_server_of_its_own(repository, tmp_path):
    """Without --url it serves the export, and with several images in a request it counts images."""
    target = tmp_path / "bench.json"
    what = ["--batch-size", "4", "--concurrency", "1"]
    done = run(app, ["bench", "tiny-vit", "--repository", str(repository), *what, *SHORT, "--json", str(target)])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(target.read_text())["sweep"]
    assert row["images_per_batch"] == pytest.approx(4)
    assert row["images_per_s"] * row["mean_ms"] / 1e3 == pytest.approx(4, rel=0.5)  # one request after the other


def test_the_readmes_perf_analyzer(server, tmp_path):
    """The commands that the README shows for plain perf_analyzer work as they stand there."""
    text = (ROOT / "README.md").read_text()
    block = next(block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "\nperf_analyzer " in block)
    lines = re.sub(r" *\\\n *", " ", block).splitlines()
    write, measure = lines[0].split(), next(line for line in lines if line.startswith("perf_analyzer ")).split()
    payload = str(tmp_path / "payload.json")
    replaced = {
        "examples/photos": str(PHOTOS),
        "payload.json": payload,
        "localhost:8001": server.grpc_address,
        "vit-base-patch16-224_pooled": "tiny-vit_pooled",
    }
    assert run(app, [replaced.get(part, part) for part in write[1:]]).exit_code == 0
    analyzer = _perf_analyzer.get(None, lambda text: None)
    command = [str(analyzer.executable), *(replaced.get(part, part) for part in measure[1:])]
    short = ["--measurement-interval", "300", "--max-trials", "20", "--stability-percentage", "999"]
    done = subprocess.run([*command, *short], env=analyzer.environment, capture_output=True, text=True, timeout=120)
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
        deadline = time.monotonic() + 60
        while not target.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
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


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["other"], 1, "has no model other_preprocess"),
        (["tiny-vit", "--images", "{tmp}"], 1, "has no .jpg, .jpeg, .png or .webp files"),
        (["tiny-vit", "--url", "127.0.0.1:9"], 1, "does not tell about the model tiny-vit_pooled"),
        (["tiny-vit", "--url", "grpcs://127.0.0.1:9"], 2, "TLS is not measured"),
        (["tiny-vit", "--url", "127.0.0.1:9", "--protocol", "http"], 2, "no --url has the scheme http"),
        (["tiny-vit", "--concurrency", "1,x"], 2, "not a list of numbers"),
        (["tiny-vit", "--output", "tokens"], 2, "'tokens' is not one of pooled, unpooled"),
        (["--from", "{tmp}/none.json"], 1, "No such file"),
        (["--from", str(ROOT / "pyproject.toml")], 1, "is not a file that --json wrote"),
    ],
)
def test_what_it_cannot_measure(arguments, code, message, repository, tmp_path):
    """One line says what is wrong; a mistake on the command line is exit code 2."""
    filled = [text.format(tmp=tmp_path) for text in arguments]
    images = [] if "--images" in filled else ["--images", str(PHOTOS)]
    done = run(app, ["bench", *filled, *images, "--repository", str(repository)])
    assert done.exit_code == code, done.output
    assert message in " ".join(done.stderr.split())
