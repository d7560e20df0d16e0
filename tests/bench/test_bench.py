"""The command `vitriton bench`, on a small model: that it measures, not how fast anything is."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportOptions, export_model

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
run = CliRunner().invoke


@pytest.fixture(scope="module")
def repository(tmp_path_factory, tiny_vit_checkpoint):
    """A small export."""
    folder = tmp_path_factory.mktemp("bench") / "repository"
    export_model(ExportOptions(model=str(tiny_vit_checkpoint), repository=folder, outputs="pooled"))
    return folder


def test_it_measures_both_sides(repository, tmp_path):
    """Each round has both throughputs and their ratio; the file holds what the table shows."""
    target = tmp_path / "bench.json"
    options = ["--repository", str(repository), "--images", str(PHOTOS), "--rounds", "2", "--seconds", "0.2"]
    done = run(app, ["bench", "tiny-vit", *options, "--json", str(target)])
    assert done.exit_code == 0, done.output
    report = json.loads(target.read_text())
    assert report["images"]["count"] == 8
    assert len(report["rounds"]) == 2
    for entry in report["rounds"]:
        assert entry["ratio"] == pytest.approx(entry["served_images_per_s"] / entry["onnxruntime_images_per_s"])
        assert 0 < entry["served_p50_ms"] <= entry["served_p99_ms"]
    assert f"median of 2 rounds: {report['ratio']:.3f}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other", "--images", str(PHOTOS)], "has no exported model other"),
        (["tiny-vit", "--images", "{tmp}"], "has no .jpg, .jpeg, .png or .webp files"),
    ],
)
def test_what_it_cannot_measure(arguments, message, repository, tmp_path):
    """One line, exit code 1."""
    filled = [text.format(tmp=tmp_path) for text in arguments]
    done = run(app, ["bench", *filled, "--repository", str(repository)])
    assert done.exit_code == 1
    assert message in done.stderr
