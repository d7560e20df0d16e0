"""The report: its page, and a whole one of a small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import compare
import numpy as np
import pytest
import torch
from PIL import Image
from report.exports.exports import made_with
from report.pages.markdown import page
from report.pages.plots import TITLES
from report.phases.large import Large
from report.phases.memory import resident_bytes
from report.phases.steady import steady
from report.plan import Plan
from report.run import attempt
from report.sides.litserve import LitServe
from report.sides.reference import load, pooled, worst_cosine
from report.state import State
from typer.testing import CliRunner
from vitriton.preprocessing import PreprocessSpec, Resize, is_scaled

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
RESULTS = ROOT / "bench" / "results" / "report.json"
run = CliRunner().invoke


@pytest.mark.skipif(not RESULTS.is_file(), reason="no report has been committed yet")
def test_the_page_is_made_of_the_committed_run():
    """Every figure of docs/benchmarks.md is in the file of the run, which `make bench` repeats."""
    document = json.loads(RESULTS.read_text())
    plots = {TITLES[name]: f"benchmarks/{name}" for name in TITLES if (ROOT / "docs" / "benchmarks" / name).is_file()}
    assert page(document, plots) == (ROOT / "docs" / "benchmarks.md").read_text()
    assert RESULTS.stat().st_size < 200_000


def test_it_is_imported_without_the_heavy_libraries():
    """A sweep, and the page of an earlier run, need neither torch nor transformers nor matplotlib nor LitServe."""
    program = (
        "import sys, vitriton_bench.cli, vitriton_bench._sweep.sweep, vitriton_bench._tables.terminal\n"
        "import compare\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'litserve', 'onnxruntime', 'onnx'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "bench")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_memory_of_a_process_and_its_children():
    """A child's counts, and pages that several have are counted once."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        one, both = resident_bytes(child.pid), resident_bytes(os.getpid())
        child.stdin.close()
    assert 0 < one["shared_once"] <= one["sum"] < both["sum"]


@pytest.mark.long
def test_the_peer_gives_the_references_embeddings(tiny_vit_checkpoint):
    """A real LitServe: its answers are those of transformers, before and after a pause; nothing of it stays behind."""
    images = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:3]]
    processor, model = load(str(tiny_vit_checkpoint), "fp32", "cpu")
    pictures = [Image.open(BytesIO(image)).convert("RGB") for image in images]
    with torch.inference_mode():
        expected = pooled(model(**processor(pictures, return_tensors="pt")), "pooler").numpy()
    with LitServe(str(tiny_vit_checkpoint), "fp32", "pooler", 4) as peer:
        peer.wait()
        first = np.stack([peer.embed(image) for image in images])
        peer.pause()
        peer.resume()
        second = np.stack([peer.embed(image) for image in images])
        process = peer._process.pid
    assert worst_cosine(first, expected) > 0.99999
    assert worst_cosine(second, expected) > 0.99999
    assert not Path(f"/proc/{process}").exists()


def test_large_photos():
    """12 megapixels each, decoded both ways, to nearly the same pixels; other sizes are decoded whole."""
    spec = PreprocessSpec((Resize("bilinear", height=224, width=224),), 224, 224)
    large = Large.of([path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:2]], spec)
    assert [Image.open(BytesIO(photo)).size for photo in large.photos] == [(4000, 3000)] * 2
    assert all(is_scaled(photo, large.scaled) and not is_scaled(photo, large.exact) for photo in large.photos)
    assert set(large.round(1)) == {"exact_s", "scaled_s"}
    assert 0.999 < large.worst_cosine(lambda pixels: pixels.astype(float)) < 1


def test_what_there_is_no_time_for_is_named(tmp_path):
    """The phases after the rounds are left out one by one, and the report is still written."""
    state = State(Plan(images=PHOTOS, work=tmp_path, budget_s=0.0), None, "", lambda text: None)
    attempt(steady, state)
    assert state.document["failed"] == {"steady": "there was no time for it"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from", "{tmp}/none.json"], 1, "No such file"),
        (["--from", str(ROOT / "pyproject.toml")], 1, "is not a file that --json wrote"),
        (["--markdown", "{tmp}"], 2, "is a folder; name a file"),
        (["--plots", str(ROOT / "pyproject.toml")], 2, "is a file; name a folder"),
        (["--images", "{tmp}"], 2, "has no .jpg, .jpeg, .png or .webp files"),
    ],
)
def test_what_it_cannot_make(arguments, code, message, tmp_path):
    """One line says what is wrong, before anything is measured; a mistake on the command line is exit code 2."""
    done = run(compare.app, [text.format(tmp=tmp_path) for text in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    assert message in " ".join(done.stderr.split())


@pytest.mark.long
def test_a_whole_report_of_a_small_model(tiny_vit_checkpoint, tmp_path):
    """Every phase measures something, nothing fails, and the page is made of the file."""
    target, written = tmp_path / "report.json", tmp_path / "page.md"
    files = ["--json", str(target), "--markdown", str(written), "--work", str(tmp_path / "work")]
    what = ["--quick", "--minutes", "30", "--model", str(tiny_vit_checkpoint), "--images", str(PHOTOS)]
    done = run(compare.app, [*what, *files])
    assert done.exit_code == 0, done.output
    document = json.loads(target.read_text())
    assert document["failed"] == {}
    for phase in (
        "limits",
        "accuracy",
        "sweep",
        "looks",
        "rounds",
        "steady",
        "preprocessing",
        "large",
        "small",
        "memory",
    ):
        assert document[phase], phase
    assert "not measured" not in written.read_text()
    assert page(document, {}) == written.read_text()
    assert document["accuracy"]["Vitriton fp32"] > 0.9999


def test_an_export_is_reused_where_it_was_made_in_the_same_way(tmp_path):
    """One for another device is not; neither is what is no export."""
    manifest = tmp_path / "manifest.json"
    wanted = {"precision": "int8", "device": "cpu", "accelerator": None}
    assert not made_with(manifest, wanted)
    manifest.write_text("{}")
    assert not made_with(manifest, wanted)
    manifest.write_text(json.dumps({"options": {**wanted, "max_batch_size": 32}}))
    assert made_with(manifest, wanted)
    assert not made_with(manifest, {**wanted, "device": "gpu"})
