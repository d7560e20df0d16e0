"""What decides the weights of an export: every file is read, hashed or refused by name, and no tensor is random."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportOptions
from vitriton_export import _towers as towers
from vitriton_export._checkpoint import source as sources

run = CliRunner().invoke
FILE = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346293852\n"
PAGE = "\n<!DOCTYPE html><html><head><title>Log in</title></head></html>"
ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "google/vit-base-patch16-224"})


@pytest.fixture
def checkpoint(tiny_vit_checkpoint, tmp_path) -> Path:
    """A copy, which may be changed."""
    return shutil.copytree(tiny_vit_checkpoint, tmp_path / "tiny")


def refusal(folder: Path | str) -> str:
    """What the command says, in its one line."""
    done = run(app, ["export", str(folder), "--repository", str(Path(folder).parent / "r")])
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert done.stderr.splitlines()[-1] == lines[0]
    assert not (Path(folder).parent / "r").exists()
    return lines[0].removeprefix("error: ")


def plan(folder: Path):
    options = ExportOptions(model=str(folder), repository=folder.parent / "none")
    return towers.plans(sources.fetch_weights(sources.find(str(folder), None)), options)[0]


def rewrite(folder: Path, change) -> None:
    """Saves the weights with other names or tensors."""
    save_file(change(load_file(folder / FILE)), folder / FILE, metadata={"format": "pt"})


def split(folder: Path) -> Path:
    """The same weights, as an index and two shards; gives the index."""
    tensors = load_file(folder / FILE)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard, metadata={"format": "pt"})
    mapping = {name: shard for shard, held in shards.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapping}))
    (folder / FILE).unlink()
    return index


def test_an_adapter_is_refused_by_name(checkpoint):
    """Beside whole weights, and alone: with and without the package peft it would be another model."""
    (checkpoint / "adapter_config.json").write_text(ADAPTER)
    (checkpoint / "adapter_model.safetensors").write_bytes((checkpoint / FILE).read_bytes())
    beside = refusal(checkpoint)
    (checkpoint / FILE).unlink()
    (checkpoint / "config.json").unlink()
    for said in (beside, refusal(checkpoint)):
        assert "adapter_config.json" in said
        assert (
            "merge it into 'google/vit-base-patch16-224' with merge_and_unload() of peft, "
            'as "Merging an adapter" in the documentation shows' in said
        )


def test_an_adapter_is_another_checkpoint_for_skip_existing(checkpoint, tmp_path):
    """--skip-existing exports again what an adapter was put beside, and so says why it cannot."""
    command = ["export", str(checkpoint), "--repository", str(tmp_path / "r"), "--skip-existing", "--outputs", "pooled"]
    assert run(app, command).exit_code == 0
    (checkpoint / "adapter_config.json").write_text(ADAPTER)
    done = run(app, command)
    assert done.exit_code == 1
    assert "holds an adapter" in done.stderr


def test_of_two_whole_sets_the_one_that_transformers_reads_is_taken_and_the_other_named(checkpoint):
    """model.safetensors wins; only what is read is hashed; a warning and the manifest say which."""
    before = plan(checkpoint)
    hashed = sources.files_sha256(checkpoint)
    other = {name: torch.zeros_like(tensor) for name, tensor in load_file(checkpoint / FILE).items()}
    torch.save(other, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.fp16.safetensors").write_bytes(b"")
    (checkpoint / "training_args.bin").write_bytes(b"")
    both = plan(checkpoint)
    assert both.weights == before.weights
    assert sources.files_sha256(checkpoint) == hashed
    (warning,) = both.checkpoint.warnings
    assert "model.fp16.safetensors and pytorch_model.bin" in warning
    assert "not read" in warning
    assert "training_args" not in warning
    (checkpoint / FILE).unlink()
    (checkpoint / "model.fp16.safetensors").unlink()
    alone = plan(checkpoint)
    assert alone.weights != before.weights
    assert alone.checkpoint.warnings == ()
    assert [path.name for path in alone.checkpoint.source.weights.files] == ["pytorch_model.bin"]


def test_shards_are_the_same_weights(checkpoint):
    """As one file or as several, whatever their names; a changed shard is another checkpoint."""
    whole = plan(checkpoint)
    index = split(checkpoint)
    assert plan(checkpoint).weights == whole.weights
    index.write_text(index.read_text().replace("model-00002-of-00002", "second half"))
    (checkpoint / "model-00002-of-00002.safetensors").rename(checkpoint / "second half.safetensors")
    assert plan(checkpoint).weights == whole.weights
    before = sources.files_sha256(checkpoint)
    with (checkpoint / "second half.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert sources.files_sha256(checkpoint) != before


def _drop_from_index(folder: Path) -> None:
    index = split(folder)
    document = json.loads(index.read_text())
    document["weight_map"]["embeddings.cls_token"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(document))


def _both_hold(folder: Path) -> None:
    split(folder)
    first, second = sorted(folder.glob("model-*.safetensors"))
    save_file(load_file(first) | dict(list(load_file(second).items())[:1]), first, metadata={"format": "pt"})


def _index_elsewhere(folder: Path) -> None:
    index = split(folder)
    index.write_text(index.read_text().replace("model-00002-of-00002", "../model-00002-of-00002"))


def _variant(folder: Path) -> None:
    (folder / FILE).rename(folder / "model.fp16.safetensors")


def _tensorflow(folder: Path) -> None:
    (folder / FILE).rename(folder / "tf_model.h5")


def _truncated(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])


def _quantized(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors | {"encoder.layer.0.x": torch.zeros(4, dtype=torch.uint8)})


def _bin(text: str):
    def write(folder: Path) -> None:
        (folder / FILE).unlink()
        (folder / "pytorch_model.bin").write_text(text)

    return write


def _quantized_bin(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    torch.save(tensors | {"pooler.dense.weight": torch.zeros(32, 32, dtype=torch.int8)}, folder / "pytorch_model.bin")


class _Code:
    def __reduce__(self):
        return (print, ("ran",))


def _pickled_code(folder: Path) -> None:
    (folder / FILE).unlink()
    torch.save({"cls_token": torch.zeros(32, 1000), "more": _Code()}, folder / "pytorch_model.bin")


def _saved(content):
    """A pickle of torch, made of the tensors of the checkpoint."""

    def write(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        (folder / FILE).unlink()
        torch.save(content(tensors), folder / "pytorch_model.bin")

    return write


def _dangling(name: str):
    def link(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("../../blobs/0123")

    return link


def _replaced(make):
    return lambda folder: ((folder / FILE).unlink(), make(folder / FILE))


def _dangling_shard(folder: Path) -> None:
    split(folder)
    _dangling("model-00001-of-00002.safetensors")(folder)


def _shards_of_a_variant(folder: Path) -> None:
    split(folder).rename(folder / "model.safetensors.index.fp16.json")
    for path in sorted(folder.glob("model-*.safetensors")):
        path.rename(folder / path.name.replace("model-", "model.fp16-"))


def _control_in_shard(folder: Path) -> None:
    index = split(folder)
    index.write_text(index.read_text().replace("model-00002-of-00002", "\\u001b[2J\\nx"))


def _config(**entries):
    def write(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return write


def _header(length: int):
    return lambda folder: (folder / FILE).write_bytes(struct.pack("<Q", length) + b"{}")


REFUSED = {
    "pointer": (
        lambda folder: (folder / FILE).write_text(POINTER),
        f"{FILE} of",
        "is a git-lfs pointer",
        "git lfs pull",
    ),
    "pointer-bin": (_bin(POINTER), "pytorch_model.bin of", "is a git-lfs pointer", "git lfs pull"),
    "pointer-config": (lambda folder: (folder / "config.json").write_text(POINTER), "config.json of", "git lfs pull"),
    "page": (lambda folder: (folder / FILE).write_text(PAGE), "is a web page", "download it again"),
    "page-bin": (_bin(PAGE), "is a web page", "download it again"),
    "page-processor": (
        lambda folder: (folder / "preprocessor_config.json").write_text(PAGE),
        "preprocessor_config.json of",
        "is a web page",
    ),
    "empty": (lambda folder: (folder / FILE).write_bytes(b""), "is empty", "download it again"),
    "truncated": (_truncated, "is damaged", "download it again"),
    "header": (_header(10**15), "is damaged", "download it again"),
    "no-pickle": (_bin("hello"), "pytorch_model.bin of", "is not a torch file", "download it again"),
    "code": (_pickled_code, "pytorch_model.bin of", "more than tensors", "save_pretrained"),
    "variant": (_variant, "has no weights", "model.fp16.safetensors, a variant", "rename it to model.safetensors"),
    "list": (_saved(lambda tensors: [torch.zeros(60000)]), "an object of type list", "state_dict()"),
    "list-small": (_saved(lambda tensors: [1]), "an object of type list", "state_dict()"),
    "tensor": (_saved(lambda tensors: torch.zeros(60000)), "an object of type Tensor", "state_dict()"),
    "keys": (_saved(lambda tensors: dict(enumerate(tensors.values()))), "does not hold tensors by their names"),
    "no-tensors": (_saved(lambda tensors: {"epoch": 3}), "does not hold tensors by their names"),
    "state-dict": (_saved(lambda tensors: {"epoch": 3, "state_dict": tensors}), "in the entry 'state_dict'; save that"),
    "model": (_saved(lambda tensors: {"model": tensors, "loss": torch.ones(1)}), "in the entry 'model'; save that"),
    "dangling": (_dangling(FILE), f"{FILE} of", "is a symbolic link to ../../blobs/0123, which is not there", "cp -rL"),
    "dangling-config": (_dangling("config.json"), "config.json of", "which is not there"),
    "dangling-processor": (_dangling("preprocessor_config.json"), "preprocessor_config.json of", "which is not there"),
    "dangling-shard": (_dangling_shard, "model-00001-of-00002.safetensors of", "which is not there"),
    "folder": (_replaced(Path.mkdir), f"{FILE} of", "is a folder, and not a file"),
    "pipe": (_replaced(os.mkfifo), f"{FILE} of", "is a pipe or a device, and not a file"),
    "no-index": (
        lambda folder: split(folder).unlink(),
        "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, shards without their index",
        "put model.safetensors.index.json beside them",
    ),
    "variant-index": (_shards_of_a_variant, "the index of a variant", "save_pretrained"),
    "tensorflow": (_tensorflow, "has no weights", "tf_model.h5", "save_pretrained"),
    "shard-missing": (
        lambda folder: (split(folder).parent / "model-00001-of-00002.safetensors").unlink(),
        "names 1 file that is missing: model-00001-of-00002.safetensors",
    ),
    "shard-stale": (_drop_from_index, "does not hold embeddings.cls_token", "not from one save"),
    "shard-control": (_control_in_shard, "that is missing: \\x1b[2J\\nx.safetensors"),
    "shard-twice": (_both_hold, "model-00002-of-00002.safetensors", "not from one save"),
    "shard-elsewhere": (_index_elsewhere, "must be beside the index"),
    "index-empty": (lambda folder: split(folder).write_text("{}"), "has no weight_map"),
    "index-broken": (lambda folder: split(folder).write_text("{"), "is not JSON"),
    "distributed": (
        lambda folder: (folder / "shard-00000-model-00000-of-00001.safetensors").write_bytes(b"x"),
        "distributed checkpoint",
    ),
    "quantized": (_quantized, "is quantized", "U8", "encoder.layer.0.x"),
    "quantized-bin": (_quantized_bin, "is quantized", "int8 (pooler.dense.weight)"),
    "bitsandbytes": (
        _config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "is quantized",
        "bitsandbytes",
        "--precision int8",
    ),
    "gptq": (_config(quantization_config={"bits": 4}), "is quantized", "--precision int8"),
    "weights-file": (_config(transformers_weights="other.safetensors"), "transformers_weights", "other.safetensors"),
    "config-files": (_config(configuration_files=["config.4.0.0.json"]), "configuration_files"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_whole_set_of_weights_is_refused_in_one_line(checkpoint, case):
    """The line names the file, the cause and what to do; it never advises to run a pickle's code."""
    damage, *named = REFUSED[case]
    damage(checkpoint)
    said = refusal(checkpoint)
    assert [text for text in named if text not in said] == [], said
    assert "weights_only" not in said


def _prefixed(prefix: str):
    return lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _lora(tensors):
    return tensors | {"encoder.layer.0.attention.attention.query.lora_A.weight": torch.zeros(2, 32)}


def _wider(tensors):
    names = ["embeddings.position_embeddings", "pooler.dense.bias"]
    return tensors | {name: torch.zeros(*tensors[name].shape[:-1], 48) for name in names}


def _without(*parts: str):
    return lambda tensors: {name: t for name, t in tensors.items() if not any(part in name for part in parts)}


NOT_FITTING = {
    "module": (_prefixed("module."), "lacks", "module.", "remove this prefix"),
    "peft": (_prefixed("base_model.model."), "lacks", "base_model.model.", "remove this prefix"),
    "compiled": (_prefixed("_orig_mod."), "lacks", "_orig_mod.", "remove this prefix"),
    "backbone": (_prefixed("net.backbone."), "lacks", "net.backbone.", "remove this prefix"),
    "some": (_without("layer.1.", "layers.1."), "lacks", "which would be random"),
    "one": (_without("embeddings.cls_token"), "lacks 1 weight of", "save the whole model with save_pretrained"),
    "lora": (_lora, "hold 1 tensor of", "lora_A.weight", "merge"),
    "control": (
        lambda tensors: tensors | {"\x1b[31mred\nline2.lora_A.weight": torch.zeros(2, 32)},
        "\\x1b[31mred\\nline2.lora_A.weight",
        "merge",
    ),
    "shapes": (
        _wider,
        "2 weights do not fit",
        "embeddings.position_embeddings is (1, 17, 48) in the file and (1, 17, 32) by config.json",
    ),
}


@pytest.mark.parametrize("case", NOT_FITTING)
def test_weights_that_are_not_those_of_the_model_are_refused(checkpoint, case):
    """How many would be random is counted, some are named, and a prefix that explains it is said."""
    change, *named = NOT_FITTING[case]
    rewrite(checkpoint, change)
    said = refusal(checkpoint)
    assert [text for text in named if text not in said] == [], said


def test_layers_that_the_configuration_leaves_out_are_told(checkpoint):
    """As in transformers they are not read; a warning says how many tensors, and of what."""
    _config(num_hidden_layers=1)(checkpoint)
    (warning,) = plan(checkpoint).checkpoint.warnings
    assert "16 tensors" in warning
    assert "config.json" in warning


def test_no_layers_at_all_are_told(checkpoint):
    """A model of embeddings alone is built, and the warning counts the tensors of all layers."""
    _config(num_hidden_layers=0)(checkpoint)
    (warning,) = plan(checkpoint).checkpoint.warnings
    assert "fewer layers than the weights: 32 tensors" in warning


@pytest.mark.parametrize("lacking", ["pooler.dense.bias", "pooler.dense.weight"])
def test_a_pooler_of_which_a_part_is_missing_is_told(checkpoint, lacking):
    """The export takes the CLS token, and a warning names what is missing; without any pooler there is none."""
    rewrite(checkpoint, _without(lacking))
    planned = plan(checkpoint)
    assert planned.deployment.pooling == "cls"
    (warning,) = planned.checkpoint.warnings
    assert f"lacks {lacking}: the pooler counts as untrained" in warning
    rewrite(checkpoint, _without("pooler."))
    assert plan(checkpoint).checkpoint.warnings == ()


def test_a_model_far_larger_than_its_weights_takes_no_memory(checkpoint):
    """It is refused by its number of parameters, before they are made."""
    _config(hidden_size=64000, intermediate_size=256000)(checkpoint)
    assert "parameters" in refusal(checkpoint)
