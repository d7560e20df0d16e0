"""`vitriton verify` on a repository: what it finds, what it shows, its exit codes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import numpy_helper
from support import awkward, checkpoints, hub, older
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner
from vitriton._repository.disk import locked
from vitriton.cli import app
from vitriton_export import ExportError, ExportOptions, VerifyOptions, export_model, verify_model
from vitriton_export._parity.compare import ALONE_IMAGES

STAGES = ["pixels", "embedding", "last_hidden_state", "embedding alone", "last_hidden_state alone"]


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


@pytest.fixture(scope="module")
def exported(tiny_vit_checkpoint, tmp_path_factory):
    """A repository with one model, which no test changes."""
    repository = tmp_path_factory.mktemp("exported") / "r"
    export_model(ExportOptions(model=str(tiny_vit_checkpoint), repository=repository))
    return repository


@pytest.fixture
def repository(exported, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(exported, tmp_path / "r")
    return tmp_path / "r"


@pytest.fixture
def images(tmp_path):
    """Six images in two folders, two files that are none, and a text."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    taken = awkward.taken()
    for name in ("orientation-6.jpg", "mode-cmyk.jpg", "interlaced.png"):
        (folder / name).write_bytes(taken[name])
        (folder / "more" / name).write_bytes(taken[name])
    (folder / "cut.jpg").write_bytes(taken["progressive.jpg"][:500])
    (folder / "more" / "huge.png").write_bytes(awkward.refused()["bomb.png"].data)
    (folder / "notes.txt").write_text("no image")
    return folder


def as_exported(model: Path) -> None:
    """Writes a graph into the manifests as the one that was exported."""
    entry = {"sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "bytes": model.stat().st_size}
    for path in model.parents[2].glob("*/1/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["files"][f"{model.parents[1].name}/{model.name}"] = entry
        path.write_text(json.dumps(manifest))


def spoil(model: Path) -> None:
    """Changes one weight of a graph, as an exporter with a fault would."""
    graph = onnx.load(model)
    tensor = next(entry for entry in graph.graph.initializer if len(entry.dims) == 2)
    values = numpy_helper.to_array(tensor).copy()
    values[0] += 1.0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(graph, model)
    as_exported(model)


def test_what_was_exported_is_within_its_gates(exported, tiny_vit_checkpoint):
    """Exit code 0, the only model found by itself, every stage in the table, the figures of the export."""
    done = run("--repository", exported, "--reference", tiny_vit_checkpoint)
    assert done.exit_code == 0, done.output
    for text in (*STAGES, "identical", "tiny-vit is within its gates", "25 of 25 images"):
        assert text in done.stdout
    for step in ("Find the model", "Load the reference"):
        assert step in done.stderr
    report = json.loads(run("tiny-vit", "--repository", exported, "--reference", tiny_vit_checkpoint, "--json").stdout)
    manifest = json.loads((exported / "tiny-vit_pooled/1/manifest.json").read_text())
    assert report["stages"] == [{"tower": "image", **stage} for stage in manifest["parity"]["stages"]]


def test_the_report_for_programs(exported, tiny_vit_checkpoint, images):
    """Its keys; on a folder of one's own, what is no image is listed with its reason and changes no exit code."""
    done = run("--repository", exported, "--reference", tiny_vit_checkpoint, "--images", images, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert report["name"] == "tiny-vit"
    assert report["images"] == {"given": 8, "compared": 6, "unusable": 2}
    assert [stage["stage"] for stage in report["stages"]] == STAGES
    assert report["stages"][0].keys() == {
        "tower",
        "stage",
        "images",
        "max_abs_error",
        "max_abs_reference",
        "min_cosine",
        "mean_cosine",
        "gate",
        "passed",
        "worst",
    }
    assert {entry["image"] for entry in report["unusable"]} == {"cut.jpg", "more/huge.png"}
    assert all(entry["reason"] for entry in report["unusable"])
    assert report["reference"]["model"] == str(tiny_vit_checkpoint)
    assert report["reference"]["versions"].keys() == {"pillow", "transformers", "torch", "onnxruntime"}
    assert report["skipped"] == []
    assert report["notes"] == ["skipped, because their names are not those of images: .txt: 1"]


def test_a_limit_is_spread(exported, tiny_vit_checkpoint, images):
    """Three of eight come from all over the sorted list, and the table names what was not compared."""
    done = run("--repository", exported, "--reference", tiny_vit_checkpoint, "--images", images, "--limit", 3)
    assert done.exit_code == 0, done.output
    assert "2 of 3 images compared" in done.stdout
    assert "not compared: cut.jpg: cannot be decoded" in done.stdout


def test_a_broken_gate_is_exit_code_3(repository, tiny_vit_checkpoint):
    """The stage is named, and its worst images; pixels and the other output are as they were."""
    spoil(repository / "tiny-vit_pooled_encoder/1/model.onnx")
    arguments = ("--repository", repository, "--reference", tiny_vit_checkpoint)
    done = run(*arguments)
    assert done.exit_code == 3, done.output
    assert "tiny-vit is broken: embedding\n" in done.stdout
    assert "embedding: worst images: " in done.stdout
    report = json.loads(run(*arguments, "--json").stdout)
    assert [stage["stage"] for stage in report["stages"] if not stage["passed"]] == ["embedding"]
    assert len(report["stages"][1]["worst"]) == 3
    moved = run(*arguments, "--min-cosine", "1e-6")
    assert moved.exit_code == 0
    assert "cosine >= 1e-06 (set by --min-cosine)" in moved.stdout


def test_the_gates_are_those_of_the_manifest(repository, tiny_vit_checkpoint):
    """An export whose gate was moved is held to that gate."""
    spoil(repository / "tiny-vit_pooled_encoder/1/model.onnx")
    for path in repository.glob("*/1/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["parity"]["gates"]["embedding"] = {"min_cosine": -1.0}
        path.write_text(json.dumps(manifest))
    assert run("--repository", repository, "--reference", tiny_vit_checkpoint).exit_code == 0


def test_a_half_deleted_export_is_told(repository, tiny_vit_checkpoint):
    """Before anything is loaded: what is missing, and what to do."""
    (repository / "tiny-vit_unpooled_encoder/1/model.onnx").unlink()
    done = run("--repository", repository, "--reference", tiny_vit_checkpoint)
    assert done.exit_code == 1
    fault = "tiny-vit_unpooled_encoder/1/model.onnx is missing; copy or export it again"
    assert f"error: tiny-vit in {repository} is not as it was exported: {fault}" in done.stderr


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _allow_more(path: Path) -> None:
    path.write_text(path.read_text().replace('"max_bytes": ', '"max_bytes": 1'))


@pytest.mark.parametrize(
    ("file", "change", "fault"),
    [
        ("tiny-vit_unpooled_encoder/1/model.onnx", _flip, "is not the file that was exported"),
        ("tiny-vit_pooled_encoder/1/model.onnx", _cut, "is not the file that was exported"),
        ("tiny-vit_preprocess/1/preprocess.json", _allow_more, "is not the file that was exported"),
    ],
)
def test_files_that_are_not_the_exported_ones(file, change, fault, repository, tiny_vit_checkpoint):
    """One bit of a graph, or one limit: refused by name, whatever the figures would be."""
    change(repository / file)
    done = run("--repository", repository, "--reference", tiny_vit_checkpoint)
    assert done.exit_code == 1
    text = f"error: tiny-vit in {repository} is not as it was exported: {file} {fault}; copy or export it again\n"
    assert done.stderr.endswith(text)


def test_the_files_alone(repository):
    """Without torch, and wherever the checkpoint is: copied files are those that were exported, or one is named."""
    code = "import sys; sys.modules['torch'] = None; from vitriton.cli import main; sys.argv[0] = 'vitriton'; main()"
    command = [sys.executable, "-c", code, "verify", "--repository", str(repository), "--files"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (
        0,
        f"the files of tiny-vit in {repository} are those that were exported\n",
    )
    _flip(repository / "tiny-vit_pooled_encoder/1/model.onnx")
    done = run("--repository", repository, "--files")
    assert done.exit_code == 1
    assert "tiny-vit_pooled_encoder/1/model.onnx is not the file that was exported" in done.stderr
    (repository / "tiny-vit_pooled/1/manifest.json").unlink()
    done = run("--repository", repository, "--files")
    assert done.exit_code == 1
    assert "tiny-vit_pooled/1/manifest.json is missing; copy it, or export the model again" in done.stderr


def test_a_version_that_no_ensemble_uses(repository, tiny_vit_checkpoint):
    """Somebody's own folder is refused by its name; what a later export has replaced is not."""
    export_model(ExportOptions(model=str(tiny_vit_checkpoint), repository=repository, outputs="pooled"))
    assert run("--repository", repository, "--files").exit_code == 0
    for folder in ("tiny-vit_preprocess/9", "tiny-vit_unpooled/3"):
        (repository / folder).mkdir()
        done = run("--repository", repository, "--files")
        assert done.exit_code == 1
        assert f"no ensemble uses version {folder}, and Triton may load it all" in done.stderr
        assert done.stderr.endswith(f"; remove {repository / folder}\n")
        (repository / folder).rmdir()


def test_an_older_export_is_verified(repository, tiny_vit_checkpoint):
    """One whose preprocessing is a file and no folder is run as it is; what is wrong in it is seen."""
    version = repository / "tiny-vit_preprocess/1"
    older.with_one_file(version)
    assert run("--repository", repository, "--reference", tiny_vit_checkpoint).exit_code == 0
    assert {path.name for path in version.iterdir()} == {"model.py", "preprocess.json", "vitriton_preprocessing.py"}
    path = version / "vitriton_preprocessing.py"
    path.write_text(path.read_text() + "\nRESAMPLE = dict.fromkeys(RESAMPLE, Image.Resampling.NEAREST)\n")
    assert run("--repository", repository, "--reference", tiny_vit_checkpoint).exit_code == 3


def test_the_versions_are_those_that_triton_runs(repository, tiny_vit_checkpoint):
    """A version beside the one that the ensemble names does not count, until the ensemble names it or the latest."""
    encoder = repository / "tiny-vit_pooled_encoder"
    shutil.copytree(encoder / "1", encoder / "9")
    shutil.copytree(encoder / "1", encoder / "10")
    _flip(encoder / "10/model.onnx")
    path = repository / "tiny-vit_pooled/config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    for version, code in ((1, 0), (9, 0), (10, 1), (-1, 1)):
        config.ensemble_scheduling.step[1].model_version = version
        path.write_text(text_format.MessageToString(config))
        done = run("--repository", repository, "--reference", tiny_vit_checkpoint)
        assert done.exit_code == code, f"version {version}: {done.output}"


def test_an_output_that_a_later_export_left(repository, tiny_vit_checkpoint):
    """It stays in service in its version, with its manifest; a step that both share has the later configuration."""
    options = {"outputs": "pooled", "max_batch_size": 64}
    export_model(ExportOptions(model=str(tiny_vit_checkpoint), repository=repository, **options))
    assert (repository / "tiny-vit_pooled/2").is_dir()
    assert (repository / "tiny-vit_unpooled/1").is_dir()
    done = run("--repository", repository, "--files")
    assert done.exit_code == 0, done.output
    for model in ("tiny-vit_pooled", "tiny-vit_pooled_encoder"):
        shutil.rmtree(repository / model)
    done = run("--repository", repository, "--files")
    assert done.exit_code == 1
    assert "is not as it was exported: tiny-vit_pooled is missing; copy or export it again" in done.stderr


def test_a_repository_is_not_read_while_it_changes(repository, tiny_vit_checkpoint):
    """It waits until an export has installed what belongs together."""
    with ThreadPoolExecutor() as pool:
        with locked(repository, exclusive=True):
            options = VerifyOptions(repository=repository, reference=str(tiny_vit_checkpoint))
            report = pool.submit(verify_model, options)
            with pytest.raises(TimeoutError):
                report.result(timeout=2.0)
        assert report.result().passed


def test_one_output_alone(tmp_path):
    """An export with pooled embeddings only is verified without the tokens; fp16 against its own gate."""
    checkpoint = checkpoints.tiny_dinov2(tmp_path / "tiny-dinov2")
    options = {"outputs": "pooled", "precision": "fp16", "pooling": "mean", "l2_normalize": True}
    export_model(ExportOptions(model=str(checkpoint), repository=tmp_path / "r", **options))
    report = verify_model(VerifyOptions(repository=tmp_path / "r", reference=str(checkpoint)))
    assert [stage.stage for stage in report.stages] == ["pixels", "embedding", "embedding alone"]
    assert report.stages[1].gate == "cosine >= 0.9999"
    assert report.passed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_half_precision_outputs(precision, tiny_vit_checkpoint, tmp_path):
    """Exported and verified within the gates that fit them."""
    options = {"precision": precision, "output_dtype": "fp16"}
    export_model(ExportOptions(model=str(tiny_vit_checkpoint), repository=tmp_path / "r", **options))
    report = verify_model(VerifyOptions(repository=tmp_path / "r"))
    assert report.passed
    assert report.stages[1].gate == ("cosine >= 0.9999" if precision == "fp32" else "cosine >= 0.99")


def test_a_wrong_checkpoint_is_said_at_once(exported, tiny_vit_checkpoint, tmp_path):
    """Other weights, or the same with another image processor, are no reference; nothing is run."""
    other = checkpoints.tiny_vit(tmp_path / "other", num_hidden_layers=1)
    done = run("--repository", exported, "--reference", other)
    assert done.exit_code == 1
    assert (
        "is not the checkpoint of tiny-vit, which was exported from tiny-vit: the weights are others; its "
        in done.stderr
    )
    resized = tmp_path / "resized"
    shutil.copytree(tiny_vit_checkpoint, resized)
    config = json.loads((resized / "preprocessor_config.json").read_text())
    config |= {"resample": 3, "image_std": [0.4, 0.4, 0.4]}
    (resized / "preprocessor_config.json").write_text(json.dumps(config))
    done = run("--repository", exported, "--reference", resized)
    assert done.exit_code == 1
    assert "tiny-vit: the preprocessing is another; the normalization is another; its fingerprint is v1-" in done.stderr


def test_the_folder_that_was_exported_is_found_again(exported, repository):
    """The manifest says which it was; one that has gone must be named."""
    done = run("--repository", exported)
    assert done.exit_code == 0, done.output
    for path in repository.glob("*/1/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["options"]["model"] = "moved/tiny-vit"
        path.write_text(json.dumps(manifest))
    done = run("--repository", repository)
    assert done.exit_code == 1
    text = "tiny-vit was exported from moved/tiny-vit, which is not there; name the checkpoint with --reference"
    assert done.stderr == f"error: {text}\n"


def test_a_hub_id_is_loaded_at_the_commit_that_was_exported(repository, tiny_vit_checkpoint, tmp_path):
    """The manifest says which. In a process of its own: huggingface_hub reads its environment when it is imported."""
    for path in repository.glob("*/1/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["source"] |= {"model": "org/model", "revision": hub.COMMIT}
        path.write_text(json.dumps(manifest))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [Path(sys.executable).with_name("vitriton"), "verify", "--repository", repository]
    with hub.serve(hub.Hub({"org/model": tiny_vit_checkpoint})) as server:
        environment["HF_ENDPOINT"] = server.url
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(path.startswith(f"/org/model/resolve/{hub.COMMIT}/") for path in server.requests)
    assert not any("/main" in path for path in server.requests)
    assert f"compared with org/model at {hub.COMMIT}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repository", "{r}", "--reference", "{vit}", "--images", "{tmp}/bad"], "none of the 1 images can be used"),
        (["--url", "127.0.0.1:1"], "no Triton answers at"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(arguments, message, exported, tiny_vit_checkpoint, tmp_path):
    """The last line on standard error says what is wrong; there is no traceback."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "empty.jpg").touch()
    names = {"r": exported, "tmp": tmp_path, "vit": tiny_vit_checkpoint}
    done = run(*(text.format(**names) for text in arguments))
    assert done.exit_code == 1, done.output
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.output


def test_an_export_without_weights_cannot_be_verified(tmp_path):
    """The committed text files say so themselves."""
    done = run("--repository", Path(__file__).parents[2] / "model_repository")
    assert done.exit_code == 2
    assert "vit-base-patch16-224" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "localhost:1", "--repository", "r"],
        ["--url", "localhost:1", "--files"],
        ["--files", "--texts", "missing.txt"],
        ["--files", "--images", "."],
        ["--files", "--reference", "."],
        ["one", "--model", "two"],
        ["--limit", "3"],
        ["--limit", "0", "--images", "."],
        ["--min-cosine", "2"],
        ["--min-cosine", "0"],
        ["--timeout", "0"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    """As for any command line."""
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("options", [{"limit": 0}, {"min_cosine": 1.1}, {"timeout_s": 0.0}])
def test_options_are_checked_in_python_too(options):
    """Each by its name and its bound."""
    with pytest.raises(ExportError, match=f"{next(iter(options))} is .*it must be"):
        VerifyOptions(**options)


def test_ctrl_c_is_exit_code_130(exported, tiny_vit_checkpoint):
    """Interrupted in the middle of the images, without a traceback."""
    script = """
import signal, sys
from vitriton_export._parity import runner as _runner
before, calls = _runner.RepositoryRunner.run, []
def run(self, images):
    calls.append(len(images))
    if len(calls) == 5:
        signal.raise_signal(signal.SIGINT)
    return before(self, images)
_runner.RepositoryRunner.run = run
from vitriton.cli import main
sys.argv[0] = "vitriton"
main()
"""
    command = [sys.executable, "-c", script, "verify", "--repository", exported, "--reference", tiny_vit_checkpoint]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


def test_memory_does_not_grow_with_the_images(exported, tiny_vit_checkpoint, tmp_path):
    """120 files of 2 MB: no more than two batches of them are held at a time."""
    data = awkward.taken()["progressive.jpg"] + bytes(2_000_000)
    for number in range(120):
        (tmp_path / f"{number:03}.jpg").write_bytes(data)
    options = VerifyOptions(repository=exported, reference=str(tiny_vit_checkpoint), images=tmp_path)
    verify_model(VerifyOptions(repository=exported, reference=str(tiny_vit_checkpoint)))  # what is imported on the way
    tracemalloc.start()
    try:
        report = verify_model(options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.compared == 120
    assert report.stages[-1].images == ALONE_IMAGES
    assert peak < 60_000_000


def test_the_figures_are_right(repository, tiny_vit_checkpoint):
    """An output that is shifted by 0.5 everywhere has that as its error."""
    path = repository / "tiny-vit_pooled_encoder/1/model.onnx"
    graph = onnx.load(path)
    output = graph.graph.output[0].name
    for node in graph.graph.node:
        node.output[:] = ["unshifted" if name == output else name for name in node.output]
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    graph.graph.initializer.append(half)
    graph.graph.node.append(onnx.helper.make_node("Add", ["unshifted", "half"], [output]))
    onnx.save(graph, path)
    as_exported(path)
    report = verify_model(VerifyOptions(repository=repository, reference=str(tiny_vit_checkpoint)))
    embedding = next(stage for stage in report.stages if stage.stage == "embedding")
    assert embedding.max_abs_error == pytest.approx(0.5, abs=1e-4)
    assert not embedding.passed
