"""What a newcomer runs: the demo and the quickstart. test_documentation.py runs the code in the documentation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trained_dinov2
from PIL import Image
from support import checkpoints
from vitriton_search.stores import open_store

ROOT = Path(__file__).parents[2]


def test_the_quickstart_runs_as_written(server):
    """examples/quickstart.py finds neighbors among the sample photos."""
    script = ROOT / "examples" / "quickstart.py"
    command = [sys.executable, script, server.grpc_address, "dinov2-small-trained"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "8 photos, 384 numbers each" in done.stdout
    assert done.stdout.count("is most like") == 8


@pytest.mark.usefixtures("subprocesses")
def test_neighbors_of_labeled_images(tmp_path):
    """examples/knn.py counts the images whose neighbors have their label; those without a label are left out."""
    command = [sys.executable, ROOT / "examples" / "knn.py", tmp_path / "v.npy", tmp_path / "labels.csv"]
    names = ["cat-1.jpg", "cat-2.jpg", "cup-1.jpg", "cup-2.jpg", "lost.jpg", "odd.jpg"]
    np.save(tmp_path / "v.npy", np.float32([[1, 0], [9, 1], [0, 1], [1, 8], [1, 0], [1, 9]]))
    lines = [json.dumps({"index": index, "source": f"photos/{name}"}) for index, name in enumerate(names)]
    (tmp_path / "v.sources.jsonl").write_text("".join(f"{line}\n" for line in lines))
    labeled = ["photos/cat-1.jpg,cat", "cat-2.jpg,cat", "cup-1.jpg,cup", "cup-2.jpg,cup", "odd.jpg,cat"]
    (tmp_path / "labels.csv").write_text("\n".join(labeled))
    done = subprocess.run([*command, "--neighbors", "1"], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "2 of 5 images (40.0%) get their own label from 1 neighbors"
    assert second == "the most frequent label alone: 60.0%"
    few = subprocess.run(command, capture_output=True, text=True)
    assert few.returncode == 1
    assert few.stderr.endswith("has labels for 5 of 6 images; label more than --neighbors\n")


def test_a_checkpoint_that_another_process_makes_too(tmp_path, monkeypatch):
    """Who is second takes what is there, and leaves nothing beside it."""

    def convert(graph, target):
        for folder in (target, tmp_path / trained_dinov2.NAME):
            folder.mkdir()
            (folder / "config.json").write_text(folder.name)

    monkeypatch.setattr(trained_dinov2, "_download", lambda folder: folder / "graph.onnx")
    monkeypatch.setattr(trained_dinov2, "_convert", convert)
    made = trained_dinov2.checkpoint(tmp_path)
    assert (made / "config.json").read_text() == trained_dinov2.NAME
    assert list(tmp_path.iterdir()) == [made]


def labeled_photos(folder):
    """Four photos as classes, each with eight crops of which half are mirrored; and a file that is no photo."""
    random = np.random.default_rng(0)
    for name in ("cat", "coffee", "rocket", "grass"):
        (folder / name).mkdir(parents=True)
        with Image.open(ROOT / "examples" / "photos" / f"{name}.jpg") as photo:
            for number in range(8):
                left, top = random.integers(0, 150), random.integers(0, 100)
                crop = photo.crop((left, top, left + 350, top + 275))
                if number % 2:
                    crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                crop.save(folder / name / f"{number}.jpg")
    (folder / "cat" / "notes.txt").write_text("no photo")


def test_a_classifier_on_vectors(server, tmp_path):
    """examples/transfer.py recognizes crops of photos, and names what it leaves out."""
    labeled_photos(tmp_path / "photos")
    script = [sys.executable, ROOT / "examples" / "transfer.py", "--url", server.grpc_address]
    command = [*script, "--model", "dinov2-small-trained", tmp_path / "photos"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    left_out, accuracy, interval, chance = done.stdout.splitlines()
    assert left_out.startswith("left out: image ")
    assert "notes.txt" in left_out
    assert accuracy == "32 of 32 photos of 4 classes are recognized: 100.0%"
    assert interval == "95% confidence interval: 89.3% to 100.0%"
    assert chance == "the most frequent class alone: 25.0%"
    few = subprocess.run([*command, "--folds", "9"], capture_output=True, text=True)
    assert few.returncode == 1
    assert few.stderr.endswith("needs two classes or more, with at least 9 photos each (--folds)\n")


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("program", ["demo.py", "film.py", "quickstart.py"])
def test_help_does_nothing_else(program):
    """--help says what the example does, and does not do it; an option that there is not is an error."""
    script = ROOT / "examples" / program
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {program} ")
    assert "sample photos" in done.stdout
    assert subprocess.run([sys.executable, script, "--model"], capture_output=True).returncode == 2


@pytest.fixture(params=["tiny", pytest.param("trained", marks=pytest.mark.long)])
def demo_root(request, torch, tmp_path):
    """A folder with the examples as the repository has them, and a checkpoint in the place of the downloaded one."""
    (tmp_path / ".cache").mkdir()
    checkpoint = tmp_path / ".cache" / trained_dinov2.NAME
    if request.param == "tiny":
        checkpoints.tiny_dinov2(checkpoint)
    else:
        checkpoint.symlink_to(request.getfixturevalue("trained_checkpoint"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.mark.usefixtures("subprocesses")
def test_the_demo_ends_well_without_the_hub(demo_root):
    """It says that the hub does not answer, finds every mirrored photo, and leaves a picture and a store."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    out = demo_root / "out"
    command = [sys.executable, demo_root / "examples" / "demo.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Continuing without the hub" in done.stdout
    assert "8 of 8 mirrored photos have their original as nearest neighbor" in done.stdout
    with Image.open(out / "demo.png") as opened:
        assert opened.size == (864, 864)
    assert done.stdout.splitlines()[-1].endswith("--store out/photos.lance    # the page: http://127.0.0.1:8090/")
    with open_store(str(out / "photos.lance")) as store:
        assert len(store) == 16
    if shutil.which("chromium"):
        with Image.open(out / "page.png") as opened:
            assert opened.size == (1280, 900)
    else:
        assert "there is no Chromium here" in done.stdout
