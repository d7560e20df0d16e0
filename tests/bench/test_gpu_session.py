"""bench/gpu_session.py: a whole session on a CPU, stages that fail or take too long, a session that is cut short."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gpu_session
import pytest
from report.clock import Clock
from report.session.decoding import decoded_per_s
from report.session.page import page, tables
from report.session.plan import SessionPlan
from report.session.stages import StageOver, Stages, bounded
from typer.testing import CliRunner
from vitriton.preprocessing import PreprocessSpec, Resize
from vitriton_bench.cli import INTERRUPTED

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
SCRIPT = ROOT / "bench" / "gpu_session.py"


def stages(seconds=600.0):
    """Stages of a session of this length, with their rows and the number of times that these were saved."""
    rows, saved = [], []
    return Stages(Clock(seconds, lambda text: None), rows, lambda: saved.append(len(rows))), rows, saved


def test_a_stage_that_fails_is_a_row():
    """The others run, and the rows are saved after each."""
    running, rows, saved = stages()

    def fail():
        raise RuntimeError("no kernel image is available")

    assert running.run("one", 60, lambda: 1) == 1
    assert running.run("two", 60, fail) is None
    assert running.run("three", 60, lambda: 3) == 3
    assert [row.get("error") for row in rows] == [None, "RuntimeError: no kernel image is available", None]
    assert saved == [1, 2, 3]


def test_a_stage_has_a_limit():
    """One that waits forever is ended, even if it handles every Exception."""

    def wait():
        try:
            threading.Event().wait()
        except Exception:
            threading.Event().wait()

    running, rows, _ = stages()
    assert running.run("waits", 1.0, wait) is None
    assert rows[0]["error"] == "it was ended after 1 s"
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(StageOver), bounded(0.05):
        threading.Event().wait()
    assert signal.getsignal(signal.SIGALRM) is before


def test_without_time_a_stage_does_not_begin():
    """It is a row as well."""
    running, rows, _ = stages(seconds=0.0)
    assert running.run("late", 60, lambda: pytest.fail("it ran")) is None
    assert rows[0]["error"] == "there was no time for it"


def test_what_is_exported():
    """On a GPU, the fast precision first; what only the native backend has is marked."""
    on_gpu = SessionPlan(device="gpu", images=PHOTOS, work=Path("work")).variants
    assert [(variant.slug, variant.needs_native) for variant in on_gpu] == [
        ("fp16", False),
        ("fp32", False),
        ("fp16-tensorrt", True),
        ("fp16-in-4-gb", False),
    ]
    assert SessionPlan(device="cpu", images=PHOTOS, work=Path("work")).variants == on_gpu[:2]


def test_the_page_of_a_session_on_a_gpu():
    """The share of the peak is that of the export's precision."""
    document = {
        "command": "python bench/gpu_session.py",
        "machine": {"cpu": "CPU", "cores": 16, "gpu": "GPU", "python": "3.12"},
        "versions": {},
        "images": {"count": 1, "mean_bytes": 1000, "least_bytes": 1000, "most_bytes": 1000, "sizes": ["5 × 5"]},
        "settings": {"device": "gpu"},
        "model": {"label": "vit", "flop": 35e9},
        "limits": {"products": {"fp16": 700e12}, "decoding": {"one_core": 300.0, "all_cores": 4000.0}},
        "exports": {"fp16": {"precision": "fp16", "distance": 2e-6, "compared": 25, "passed": True, "gpu_bytes": 9e8}},
        "loads": [
            {
                "variant": "fp16",
                "way": "from JPEG",
                "load": "32 callers",
                "inputs_per_s": 4000,
                "p50_ms": 8,
                "p99_ms": 9,
            }
        ],
        "stages": [{"stage": "fp16: export", "took_s": 12.0, "error": "two\nlines"}],
    }
    written = page(document)
    assert "| fp16 | from JPEG | 32 callers | 4000 | 8 | 9 | 20.0% |  |" in written
    assert "| fp16 | 0.9999980 | 25 | yes | 900 |" in written
    assert "| matrix products, fp16 | 700 TFLOP/s | 2e+04 |" in written
    assert "| fp16: export | 12.0 | two lines |" in written


@pytest.mark.usefixtures("subprocesses")
def test_decoding_in_processes():
    """All of them decode, each the photos as they are sent."""
    spec = PreprocessSpec((Resize("bilinear", height=224, width=224),), 224, 224)
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:2]]
    assert decoded_per_s(photos, spec, 2, 0.1) > 0


@pytest.mark.usefixtures("subprocesses", "torch")
def test_a_session_that_cannot_begin(tmp_path):
    """Its one stage is written with its error, and the exit code is 1."""
    files = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md"), "--work", str(tmp_path)]
    options = ["--device", "cpu", "--images", str(PHOTOS), "--perf-analyzer", "/nowhere/perf_analyzer"]
    done = CliRunner().invoke(gpu_session.app, [*files, *options])
    assert done.exit_code == 1, done.output
    (stage,) = json.loads((tmp_path / "a.json").read_text())["stages"]
    assert stage["stage"] == "prepare"
    assert "/nowhere/perf_analyzer" in stage["error"]
    assert stage["error"] in (tmp_path / "a.md").read_text()


def _command(folder, checkpoint):
    files = ["--json", str(folder / "a.json"), "--markdown", str(folder / "a.md"), "--work", str(folder / "work")]
    options = ["--device", "cpu", "--images", str(PHOTOS), "--model", str(checkpoint), "--seconds", "0.3"]
    return [sys.executable, str(SCRIPT), *files, *options, "--minutes", "30"]


@pytest.mark.long
@pytest.mark.usefixtures("subprocesses")
def test_a_whole_session(tiny_vit_checkpoint, tmp_path):
    """Every stage passes, each export is within its gates, and all ways are measured."""
    done = subprocess.run(_command(tmp_path, tiny_vit_checkpoint), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "a.json").read_text())
    assert [row for row in document["stages"] if "error" in row] == []
    assert {name: known["passed"] for name, known in document["exports"].items()} == {"fp16": True, "fp32": True}
    measured = [(row["variant"], row["way"]) for row in document["loads"]]
    each = ["from JPEG"] * 3 + ["ready pixels"] * 2 + ["graph alone"]
    assert measured == [(name, way) for name in ("fp16", "fp32") for way in each]
    assert all(row["inputs_per_s"] > 0 for row in document["loads"])
    assert document["limits"]["products"]["fp32"] > 0
    assert document["limits"]["decoding"]["all_cores"] > 0
    assert (tmp_path / "a.md").read_text() == page(document)
    assert [table.title for table in tables(document)] == [
        "Loads",
        "Exports, verified through the server",
        "Limits of the machine",
        "Stages",
    ]


@pytest.mark.long
@pytest.mark.usefixtures("subprocesses")
def test_a_session_that_is_cut_short(tiny_vit_checkpoint, tmp_path):
    """SIGTERM ends it; the file has the stages that had ended."""
    with subprocess.Popen(_command(tmp_path, tiny_vit_checkpoint), stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "a.json").is_file():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == INTERRUPTED
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["interrupted"]
    assert document["stages"][0]["stage"] == "prepare"
    assert "error" not in document["stages"][0]
