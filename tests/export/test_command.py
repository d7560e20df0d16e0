"""The command `vitriton export`: what it shows, how it fails, its exit codes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from safetensors.numpy import load_file
from support import checkpoints, graphs
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export._repository import deployment
from vitriton_export.placeholder import default_deployment

run = CliRunner().invoke


def test_it_shows_its_steps_and_what_it_wrote(tiny_vit_checkpoint, tmp_path):
    """Steps with times on standard error; models, parity and fingerprint on standard output; exit code 0."""
    done = run(app, ["export", str(tiny_vit_checkpoint), "--repository", str(tmp_path / "r"), "--name", "named"])
    assert done.exit_code == 0, done.output
    titles = (
        *("Import torch and transformers", "Find the checkpoint", "Check the weights", "Load the weights"),
        *("Run the reference on", "Export to ONNX", "Verify against the reference", "Install"),
    )
    # a step that takes long has a line while it runs, too
    *steps, exported, _ = (line for line in done.stderr.splitlines() if not line.endswith(" ..."))
    for number, (line, title) in enumerate(zip(steps, titles, strict=True), 1):
        assert line.startswith(f"{number}/{len(titles)} {title}"), line
        assert line.endswith(" s")
    assert re.fullmatch(r"Exported tiny-vit as named in \d+\.\d s", exported)
    manifest = json.loads((tmp_path / "r/named_pooled/1/manifest.json").read_text())
    for text in ("named_unpooled_encoder", "UINT8 [-1, 32, 32, 3]", "identical", "pooler", manifest["fingerprint"]):
        assert text in done.stdout
    assert done.stderr.splitlines()[-1] == f"Next: vitriton serve --repository {tmp_path / 'r'}"


def test_its_result_for_programs(tiny_vit_checkpoint, tmp_path):
    """--json: nothing else is on standard output, also where the repository holds the export already."""
    command = ["export", str(tiny_vit_checkpoint), "--repository", str(tmp_path / "r"), "--outputs", "pooled", "--json"]
    program = [sys.executable, "-c", graphs.MAIN, *command, "--precision", "int8"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)
    assert made["manifest"] == json.loads((tmp_path / "r/tiny-vit_pooled/1/manifest.json").read_text())
    assert (made["exported"], made["name"], made["repository"]) == (True, "tiny-vit", str(tmp_path / "r"))
    models = {model["name"]: model for model in made["models"]}
    assert sorted(models) == ["tiny-vit_pooled", "tiny-vit_pooled_encoder", "tiny-vit_preprocess"]
    encoder = models["tiny-vit_pooled_encoder"]
    assert encoder["path"] == str(tmp_path / "r" / "tiny-vit_pooled_encoder")
    assert encoder["bytes"] > made["manifest"]["files"]["tiny-vit_pooled_encoder/model.onnx"]["bytes"]
    assert "8/8 Install" in done.stderr
    again = run(app, [*command, "--precision", "int8", "--skip-existing"])
    assert (again.exit_code, json.loads(again.stdout)) == (0, made | {"exported": False, "notes": []})
    other = run(app, [*command, "--precision", "int8", "--pooling", "mean"])
    assert (other.exit_code, other.stdout) == (1, "")


def test_it_says_what_it_replaces(tiny_vit_checkpoint, tmp_path):
    """Once it is sure to begin, and at the end: the version, its model and its time; and what it leaves to clients."""
    command = ["export", str(tiny_vit_checkpoint), "--repository", str(tmp_path / "r")]
    first, second = run(app, command), run(app, [*command, "--outputs", "pooled"])
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert not [line for line in first.stderr.splitlines() if line.startswith("Replaces ") or "; it replaces" in line]
    earlier = r"version 1, exported from tiny-vit on \d{4}-\d\d-\d\d \d\d:\d\d UTC"
    _, _, _, _, replaces, note, *_, exported, _ = second.stderr.splitlines()
    assert re.fullmatch(f"Replaces {earlier}", replaces)
    assert re.match(f"note: tiny-vit_unpooled is not replaced: clients still get {earlier}, with weights", note)
    assert note.endswith(f"run `vitriton remove tiny-vit --repository {tmp_path / 'r'}` before the export")
    assert re.fullmatch(rf"Exported tiny-vit as tiny-vit in \S+ s; it replaces {earlier}", exported)
    assert (tmp_path / "r/tiny-vit_unpooled_encoder/1/model.onnx").is_file()


def test_it_says_why_it_replaces_nothing(tiny_vit_checkpoint, tmp_path):
    """An option that changes vectors is named, as it is typed; nothing else is announced."""
    command = ["export", str(tiny_vit_checkpoint), "--repository", str(tmp_path / "r"), "--outputs", "pooled"]
    assert run(app, command).exit_code == 0
    done = run(app, [*command, "--pooling", "mean", "--l2-normalize", "--image-processor-kwargs", '{"resample": 3}'])
    assert done.exit_code == 1
    changed = (
        "--pooling was pooler and is mean; --l2-normalize was not given and is given; --image-processor-kwargs was {} "
        'and is {"resample": 3}; the preprocessing is another'
    )
    assert f"must not be mixed: {changed}; its fingerprint is v1-" in done.stderr
    assert "Replaces" not in done.stderr
    done = run(app, [*command[:-1], "unpooled"])
    assert "must not be mixed: only one of the two has a pooled output; its fingerprint is v1-" in done.stderr


def test_it_warns_of_other_weights_before_the_work(tiny_vit_checkpoint, tmp_path):
    """A second file of weights is told as soon as the checkpoint is loaded, and a folder's empty name before that."""
    folder = shutil.copytree(tiny_vit_checkpoint, tmp_path / "two" / "checkpoint-500")
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    done = run(app, ["export", str(folder), "--repository", str(tmp_path / "r"), "--outputs", "pooled"])
    assert done.exit_code == 0, done.output
    lines = [line.split()[0] for line in done.stderr.splitlines()]
    assert lines.index("warning:") == lines.index("5/8") - 1
    assert lines.count("warning:") == 1
    assert done.stderr.startswith("note: the name of this export is checkpoint-500, ")


def test_it_warns_of_models_that_no_server_can_load(tiny_vit_checkpoint, tmp_path):
    """The committed text files without weights, beside the new export, would keep a server from starting."""
    deployment.write(default_deployment(), tmp_path / "r")
    done = run(app, ["export", str(tiny_vit_checkpoint), "--repository", str(tmp_path / "r"), "--outputs", "pooled"])
    assert done.exit_code == 0, done.output
    assert "also holds vit-base-patch16-224, which has no weights yet" in done.stderr


def test_it_prints_whole_names_where_nobody_has_a_terminal(tiny_vit_checkpoint, tmp_path):
    """A pipe or a file has no width: a name is on one line, however long; and so is the note on a path."""
    name = "long-" + "x" * 120
    repository = tmp_path / "a [bold] folder, größer als nötig"
    arguments = ["--repository", str(repository), "--name", name, "--outputs", "pooled"]
    done = run(app, ["export", str(tiny_vit_checkpoint), *arguments])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    for model in (f"{name}_pooled", f"{name}_pooled_encoder", f"{name}_preprocess"):
        assert len([line for line in lines if line.startswith(f"{model}\t")]) == 1
    note = next(line for line in done.stderr.splitlines() if line.startswith("note: "))
    assert str(repository) in note
    assert str(repository) in done.stdout
    assert note.endswith("to serve the repository, move it or mount it elsewhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{text}"], "is of type esm, which reads proteins and not texts; `vitriton export --list` shows"),
        (["{classifier}", "--pooling", "pooler"], "is untrained: the checkpoint has no pooler.dense.bias"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(
    arguments, message, tiny_vit_checkpoint, classifier_checkpoint, tmp_path, tmp_path_factory
):
    """The last line on standard error says what is wrong; there is no traceback, and nothing was written."""
    text = tmp_path_factory.mktemp("text")
    (text / "config.json").write_text('{"model_type": "esm"}')
    names = {"text": text, "tmp": tmp_path, "vit": tiny_vit_checkpoint, "classifier": classifier_checkpoint}
    done = run(app, ["export", "--repository", str(tmp_path / "r"), *(text.format(**names) for text in arguments)])
    assert done.exit_code == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pooling", "sum"],
        ["--precision", "int4"],
        ["--optimize", "all"],
        ["--output-dtype", "int8"],
        ["--max-batch-size", "0"],
        ["--repository", ""],
        ["--min-cosine", "1"],
        ["--instances", "99"],
        ["--image-size", "5000"],
        ["--warmup", "1,64"],
        ["--image-processor-kwargs", "[1]"],
        ["--no-such-option"],
        ["a", "b"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    """As for any command line."""
    assert run(app, ["export", *arguments]).exit_code == 2


def test_ctrl_c_leaves_nothing(tiny_vit_checkpoint, tmp_path):
    """Interrupted in the middle, it cleans up and exits with 130."""
    # the interrupt comes when the step that follows staging begins
    script = """
import signal, sys
from vitriton_export._parity import corpus as _corpus
before = _corpus.corpus
def corpus(**options):
    signal.raise_signal(signal.SIGINT)
    return before(**options)
_corpus.corpus = corpus
from vitriton.cli import main
sys.argv[0] = "vitriton"
main()
"""
    command = [sys.executable, "-c", script, "export", str(tiny_vit_checkpoint), "--repository", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_weights_over_two_gigabytes(tmp_path):
    """A graph that one protobuf file cannot hold is exported with its weights beside it, verified, and served."""
    from vitriton import Client
    from vitriton_server import TritonServer

    checkpoint = checkpoints.tiny_vit(
        tmp_path / "large", hidden_size=2560, num_hidden_layers=7, num_attention_heads=20, intermediate_size=10240
    )
    assert sum(array.nbytes for array in load_file(checkpoint / "model.safetensors").values()) > 2**31
    repository = tmp_path / "r"
    done = run(app, ["export", str(checkpoint), "--repository", str(repository), "--outputs", "pooled"])
    assert done.exit_code == 0, done.output
    data = repository / "large_pooled_encoder/1/model.onnx.data"
    assert data.stat().st_size > 2**31
    photo = Path(__file__).parents[2] / "examples/photos/cat.jpg"
    with TritonServer(repository) as server, Client(server.grpc_address, model="large") as client:
        assert client.embed(photo).shape == (1, 2560)


def test_it_warns_of_a_precision_for_another_device(tiny_vit_checkpoint, tmp_path, monkeypatch):
    """fp16 where there is no GPU is exported; the reason against it is the first line, and is not repeated."""
    monkeypatch.setattr("vitriton_export._graph.precision.has_gpu", lambda: False)
    options = ["--repository", str(tmp_path / "r"), "--outputs", "pooled", "--precision", "fp16"]
    done = run(app, ["export", str(tiny_vit_checkpoint), *options])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("warning: fp16 is for GPUs")
    assert done.stderr.count("warning: ") == 1


def test_optimize_none_is_the_plain_graph(tiny_vit_checkpoint, tmp_path):
    """Eager attention, and every token through the last block."""
    options = ["--repository", str(tmp_path / "r"), "--outputs", "pooled", "--optimize", "none"]
    done = run(app, ["export", str(tiny_vit_checkpoint), *options])
    assert done.exit_code == 0, done.output
    ops = [node.op_type for node in onnx.load(tmp_path / "r/tiny-vit_pooled_encoder/1/model.onnx").graph.node]
    assert ops.count("Softmax") == 2
    assert "MultiHeadAttention" not in ops
    assert json.loads((tmp_path / "r/tiny-vit_pooled/1/manifest.json").read_text())["options"]["optimize"] == "none"
