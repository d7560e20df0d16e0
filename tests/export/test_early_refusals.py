"""What the files of a checkpoint and the repository refuse without torch, which the fast layer forbids: in no time."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner
from vitriton._repository.names import model_names
from vitriton.cli import app

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
CONFIG = 'max_batch_size: 32 parameters {{ key: "fingerprint" value {{ string_value: "{}" }} }} {}'


def _truncated(checkpoint: Path, repository: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def _config(**entries):
    return lambda checkpoint, repository: (checkpoint / "config.json").write_text(json.dumps(entries))


def _file(name: str, text: str):
    return lambda checkpoint, repository: (checkpoint / name).write_text(text)


def _models(fingerprint: str = "v1-a", more: str = ""):
    def write(checkpoint: Path, repository: Path) -> None:
        for model in model_names("tiny"):
            (repository / model).mkdir(parents=True)
            (repository / model / "config.pbtxt").write_text(CONFIG.format(fingerprint, more))

    return write


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A folder with whatever can be seen without its weights."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    _config(model_type="vit")(folder, folder)
    _file("preprocessor_config.json", "{}")(folder, folder)
    save_file({"weight": np.zeros(4, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda folder, _: (folder / "preprocessor_config.json").unlink(), [], "has no preprocessor_config.json"),
        (_file("preprocessor_config.json", "{"), [], "preprocessor_config.json of tiny is not JSON"),
        (_truncated, [], "is damaged or only a part of the file"),
        (_file("model.safetensors", POINTER), [], "is a git-lfs pointer, a text that stands for the file"),
        (lambda folder, _: (folder / "model.safetensors").unlink(), [], "has no weights"),
        (_config(), [], "config.json of tiny has no model_type"),
        (_config(model_type="vit", quantization_config={"quant_method": "q"}), [], "tiny is quantized"),
        (_config(model_type="swin"), ["--pooling", "cls"], "tiny has no CLS token; use --pooling auto, pooler or mean"),
        (_config(model_type="ijepa"), ["--pooling", "pooler"], "tiny has no pooler; use --pooling auto or mean"),
        (
            None,
            ["--pooling", "projection"],
            "has no projection to compare with text; use --pooling auto, pooler, cls or",
        ),
        (lambda _, models: (models / "tiny_pooled").mkdir(parents=True), [], "was not written by vitriton export"),
        (_models(), ["--max-batch-size", "8"], "with --max-batch-size 32, which clients rely on, and 8 is less"),
        (
            _models(more='parameters { key: "precision" value { string_value: "fp32" } }'),
            ["--precision", "int8"],
            "with --precision fp32, and int8 is another embedding space, whose vectors must not be mixed",
        ),
    ],
)
def test_what_is_refused_at_once(change, arguments, message, checkpoint, tmp_path):
    """Exit code 1 and one line, with nothing imported that takes seconds, and nothing written."""
    repository = tmp_path / "models"
    if change is not None:
        change(checkpoint, repository)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["export", str(checkpoint), "--repository", str(repository), *arguments])
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
