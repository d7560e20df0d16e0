"""`vitriton export --skip-existing`: when an export is there already, and when it only seems so."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support import checkpoints
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportOptions, export_model
from vitriton_export._repository.existing import difference

run = CliRunner().invoke


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> ExportOptions:
    """The options of an export that was made."""
    folder = tmp_path_factory.mktemp("existing")
    options = ExportOptions(
        model=str(checkpoints.tiny_vit(folder / "tiny")), repository=folder / "there" / "repository", warmup=(1, 2)
    )
    export_model(options)
    return options


@pytest.fixture
def options(exported, tmp_path) -> ExportOptions:
    """The same of a copy, which may be changed."""
    checkpoint = shutil.copytree(exported.model, tmp_path / "tiny")
    shutil.copytree(exported.repository, tmp_path / "repository")
    return dataclasses.replace(exported, model=str(checkpoint), repository=tmp_path / "repository")


def test_the_same_export_is_there(options):
    """Wherever checkpoint and repository are by now; a name that says what the default says is the same name."""
    assert difference(options) is None
    assert difference(dataclasses.replace(options, name="tiny")) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "other"}, "other_pooled holds no export"),
        ({"precision": "int8"}, "--precision was fp32 and is int8"),
        ({"pooling": "cls"}, "--pooling was auto and is cls"),
        ({"outputs": "pooled"}, "--outputs was both and is pooled"),
        ({"warmup": (1,)}, "--warmup was 1,2 and is 1"),
        ({"warmup": None}, "--warmup was 1,2 and is not given"),
        ({"l2_normalize": True}, "--l2-normalize was not given and is given"),
        (
            {"precision": "int8", "image_size": 48, "max_image_frames": 1},
            "--image-size was not given and is 48; --max-image-frames was not given and is 1; --precision was fp32 and "
            "is int8",
        ),
        ({"max_batch_size": 64}, "--max-batch-size was 32 and is 64"),
        ({"model": "somebody/tiny"}, "the model was tiny and is somebody/tiny"),
    ],
)
def test_other_options_are_another_export(options, change, reason):
    """The reason names each option, and both values as they are typed."""
    said = difference(dataclasses.replace(options, **change))
    assert said is not None
    assert said.endswith(reason)


def _edit_manifest(options: ExportOptions, **source: object) -> None:
    for path in Path(options.repository).glob("*/1/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["source"] |= source
        manifest["options"] |= {"model": source["model"], "revision": "v1"}
        path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        ("v1", None),
        ("0123abc", None),
        (None, "--revision was v1 and is not given"),
        ("v2", "--revision was v1 and is v2"),
    ],
)
def test_a_model_of_the_hub(options, revision, reason):
    """Nobody asks the hub: its revision is compared as it was given, or as the commit that it was."""
    _edit_manifest(options, model="somebody/tiny", revision="0123abc", files_sha256=None)
    assert difference(dataclasses.replace(options, model="somebody/tiny", revision=revision)) == reason


def test_another_checkpoint_in_the_same_folder(options):
    """A folder has no revision; its files tell."""
    (Path(options.model) / "preprocessor_config.json").write_text("{}")
    assert "are not those that were exported" in difference(options)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_checkpoint_without_its_files(options, file):
    """What cannot be compared is exported, and the export says what is wrong."""
    (Path(options.model) / file).unlink()
    assert "are not those that were exported" in difference(options)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda models: (models / "tiny_pooled_encoder/1/model.onnx").write_bytes(b""), "1/model.onnx is empty"),
        (lambda models: (models / "tiny_unpooled_encoder/1/model.onnx").unlink(), "1/model.onnx is missing"),
        (lambda models: (models / "tiny_preprocess/1/preprocess.json").write_text("{}"), "is not the file"),
        (lambda models: shutil.rmtree(models / "tiny_preprocess/1"), "version 1 of tiny_preprocess is missing"),
        (lambda models: (models / "tiny_preprocess/config.pbtxt").unlink(), "tiny_preprocess/config.pbtxt is missing"),
        (lambda models: (models / "tiny_unpooled/1/manifest.json").write_text("{"), "cannot be read"),
        (lambda models: (models / "tiny_unpooled/1/manifest.json").write_text("{}"), "cannot be read"),
        (lambda models: shutil.rmtree(models / "tiny_pooled"), "holds no export"),
        (lambda models: shutil.rmtree(models), "holds no export"),
    ],
    ids=range(9),
)
def test_what_is_not_whole_is_exported_again(options, damage, reason):
    """All files are compared with the manifest's hashes."""
    damage(Path(options.repository))
    said = difference(options)
    assert said is not None
    assert reason in said


def test_a_graph_of_the_same_size(options):
    """One changed byte is noticed."""
    path = Path(options.repository) / "tiny_pooled_encoder/1/model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is not the file that was exported" in difference(options)


def test_the_command(options):
    """It exports what is missing, says so, and does nothing the next time."""
    path = Path(options.repository) / "tiny_pooled_encoder/1/model.onnx"
    path.write_bytes(b"graph")
    command = ["export", options.model, "--repository", str(options.repository), "--warmup", "1,2", "--skip-existing"]
    first, second = run(app, command), run(app, command)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert "to be exported: tiny_pooled_encoder/1/model.onnx is not the file that was exported" in first.stderr
    assert second.stderr == f"tiny is in {options.repository} already\n"
    assert second.stdout == ""
    assert (Path(options.repository) / "tiny_pooled/2/manifest.json").is_file()
