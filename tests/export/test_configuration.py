"""config.json and preprocessor_config.json with anything in them: a model that works, or one line, and no traceback."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import architectures, checkpoints
from transformers import AutoModel
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportError, ExportOptions
from vitriton_export import _towers as towers
from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.checkpoint import load, outline

run = CliRunner().invoke
FAMILIES = ("vit", "dinov2", "siglip", "clip", "convnext", "swin")
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
MISSING = object()
HUGE = 10**12
VALUES = (MISSING, None, "x", "é\x1b[31m\n", -1, 0, 0.5, float("nan"), True, HUGE, 10**5, [], [1], {}, {"a": 1})
TRIES = 40  # of each family, out of about 400


def plan(folder: Path):
    """As an export begins: everything that reads the files and runs the model."""
    options = ExportOptions(model=str(folder), repository=folder.parent / "none")
    source = sources.find(str(folder), None)
    outline(source, options)
    return towers.plans(sources.fetch_weights(source), options)[0]


def edit(folder: Path, file: str, **entries: object) -> None:
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(document | entries))


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A small checkpoint of a family, made once."""
    made: dict[str, Path] = {}

    def make(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = architectures.write(model_type, tmp_path_factory.mktemp("families") / model_type)
        return made[model_type]

    return make


@pytest.fixture
def checkpoint(tiny_vit_checkpoint, tmp_path) -> Path:
    """A ViT, which may be changed."""
    return shutil.copytree(tiny_vit_checkpoint, tmp_path / "tiny")


def refusal(folder: Path) -> str:
    """What the command says, in its one line."""
    done = run(app, ["export", str(folder), "--repository", str(folder.parent / "r")])
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not (folder.parent / "r").exists()
    return done.stderr.splitlines()[-1]


def _places(document: dict) -> list[tuple[str, ...]]:
    """Its entries, and those of what it is nested of, without a text tower, which nobody builds."""
    inner = [(key, name) for key, value in document.items() if isinstance(value, dict) for name in value]
    return [(key,) for key in document] + [place for place in inner if place[0] != "text_config"]


def _changed(text: str, place: tuple[str, ...], value: object) -> str:
    document = json.loads(text)
    part = document
    for key in place[:-1]:
        part = part[key]
    if value is MISSING:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return json.dumps(document)


def _said(folder: Path) -> str:
    try:
        plan(folder)
    except ExportError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_entry_with_a_wrong_value_is_never_a_traceback(family, model_type, tmp_path):
    """Missing, null, of a wrong type, of a wrong size: the export begins, or one line without control characters."""
    folder = shutil.copytree(family(model_type), tmp_path / model_type)
    texts = {file: (folder / file).read_text() for file in (CONFIG, PROCESSOR)}
    cases = [
        (file, place, value) for file, text in texts.items() for place in _places(json.loads(text)) for value in VALUES
    ]
    for file, place, value in random.Random(model_type).sample(cases, TRIES):
        (folder / file).write_text(_changed(texts[file], place, value))
        said = _said(folder)
        assert said.isprintable(), (file, place, value)
        (folder / file).write_text(texts[file])


FORMS = [
    {"return_dict": False},
    {"use_return_dict": False},
    {"torchscript": True},
    {"output_hidden_states": True},
    {"output_attentions": True},
    {"output_hidden_states": "all", "output_attentions": [], "torchscript": "x"},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: next(iter(form)))
@pytest.mark.parametrize("model_type", FAMILIES)
def test_how_a_model_hands_over_its_outputs_changes_nothing(family, model_type, form, tmp_path):
    """Old configurations say so, of the whole model and of its tower; the fingerprint is the same."""
    folder = shutil.copytree(family(model_type), tmp_path / model_type)
    before = plan(folder).deployment.fingerprint
    document = json.loads((folder / CONFIG).read_text())
    towers = {key: value | form for key, value in document.items() if key.endswith("_config")}
    edit(folder, CONFIG, **form, **towers)
    assert plan(folder).deployment.fingerprint == before


def _nested(depth: int) -> str:
    return '{"a": ' * depth + "1" + "}" * depth


TEXTS = {
    "empty": (b"", "is empty"),
    "text": (b"hello", "is not JSON"),
    "list": (b"[1]", "is not a JSON object: it must begin with {"),
    "number": (b"1", "is not a JSON object: it must begin with {"),
    "null": (b"null", "is not a JSON object: it must begin with {"),
    "utf-16": ('{"model_type": "vit"}'.encode("utf-16"), "is not JSON"),
    "bom": ('{"model_type": "vit"}'.encode("utf-8-sig"), "is not JSON"),
    "latin-1": ('{"model_type": "vît"}'.encode("latin-1"), "is not JSON"),
    "deep": (_nested(100_000).encode(), "cannot be read: it is nested too deep"),
    "digits": (
        b'{"model_type": "vit", "hidden_size": ' + b"9" * 10_000 + b"}",
        "cannot be read: a number in it is too long",
    ),
    "zeros": (bytes(1000), "is not JSON"),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("file", [CONFIG, PROCESSOR])
def test_a_file_that_is_no_json_object(checkpoint, file, text):
    """The line names the file."""
    content, message = TEXTS[text]
    (checkpoint / file).write_bytes(content)
    with pytest.raises(ExportError) as caught:
        plan(checkpoint)
    assert f"{file} of tiny" in str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_of_an_entry_that_is_there_twice_the_last_counts(checkpoint):
    """As for transformers."""
    text = (checkpoint / CONFIG).read_text()
    (checkpoint / CONFIG).write_text('{"hidden_size": 7, "model_type": "bert",' + text.lstrip().removeprefix("{"))
    assert plan(checkpoint).deployment.shapes["pooled"] == (32,)


def test_a_folder_in_the_place_of_the_file(checkpoint):
    """It is no config.json."""
    (checkpoint / CONFIG).unlink()
    (checkpoint / CONFIG).mkdir()
    assert "config.json of " in refusal(checkpoint)
    assert "is a folder, and not a file" in refusal(checkpoint)


COMMANDS = {
    "model_type-list": (CONFIG, {"model_type": ["vit"]}, "['vit'], which must be a name"),
    "model_type-control": (CONFIG, {"model_type": "vi\x1b[31mt"}, "is of type 'vi\\x1b[31mt'"),
    "model_type-null": (CONFIG, {"model_type": None}, "None, which must be a name"),
    "layers": (CONFIG, {"num_hidden_layers": HUGE}, "num_hidden_layers; it must be from 0 to 2000"),
    "labels": (CONFIG, {"num_labels": HUGE}, "num_labels; it must be from 0 to 1000000"),
    "hidden": (CONFIG, {"hidden_size": HUGE}, "config.json of tiny"),
    "hidden-memory": (CONFIG, {"hidden_size": 64_000}, "parameters, and its weights have"),
    "hidden-wrong": (CONFIG, {"hidden_size": 48}, "weights do not fit config.json of tiny: "),
    "image": (CONFIG, {"image_size": "large"}, "image_size"),
    "resample": (PROCESSOR, {"resample": "bicubic"}, "`resample` is a number: 0 (nearest), 1 (lanczos), 2 (bilinear)"),
    "size": (PROCESSOR, {"size": {"height": 100_000, "width": 100_000}}, "100000 pixels a side; the most are 4096"),
    "size-huge": (PROCESSOR, {"size": HUGE}, "the most are 4096"),
    "size-height": (PROCESSOR, {"size": {"height": 4097, "width": 32}}, "4097 pixels a side; the most are 4096"),
    "size-width": (PROCESSOR, {"size": {"height": 32, "width": 4097}}, "4097 pixels a side; the most are 4096"),
    "size-text": (PROCESSOR, {"size": "large"}, "image processor"),
    "mean": (PROCESSOR, {"image_mean": [float("nan")] * 3}, "a value that is not a number"),
    "processor": (PROCESSOR, {"image_processor_type": "NoSuchProcessor", "auto_map": 1}, "the image processor of tiny"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_the_command_names_the_entry(checkpoint, case):
    """One line on standard error, exit code 1, nothing written."""
    file, entries, message = COMMANDS[case]
    edit(checkpoint, file, **entries)
    assert message in refusal(checkpoint)


def test_the_patches_of_naflex_are_no_side_of_an_image(family, tmp_path):
    """More than 4096 of them are fine; only the number of pixels counts."""
    folder = shutil.copytree(family("siglip2_vision_model"), tmp_path / "naflex")
    edit(folder, PROCESSOR, max_num_patches=5000)
    assert outline(sources.find(str(folder), None)).spec.height == 5001


@pytest.mark.parametrize("file", [CONFIG, "model.safetensors"])
def test_numbers_that_are_none_come_to_nothing(checkpoint, file):
    """What makes an output NaN, an entry or a weight, is not shipped."""
    why = "the first tensor with such a value is embeddings.cls_token"
    if file == CONFIG:
        edit(checkpoint, CONFIG, layer_norm_eps=float("nan"))
        why = "its weights or its config.json are damaged"
    else:
        tensors = load_file(checkpoint / file)
        tensors["embeddings.cls_token"][0, 0, 0] = torch.nan
        save_file(tensors, checkpoint / file, metadata={"format": "pt"})
    said = refusal(checkpoint)
    assert "tiny gives NaN or infinity for a black image" in said
    assert said.endswith(why)


def test_images_of_another_size_than_the_models_are_told(checkpoint, tmp_path):
    """The reference stops at them; the export interpolates, and says so, unless the size was asked for."""
    edit(checkpoint, PROCESSOR, size={"height": 48, "width": 48})
    with pytest.raises(ValueError, match="doesn't match"):
        AutoModel.from_pretrained(checkpoint)(torch.zeros(1, 3, 48, 48))
    (warning,) = plan(checkpoint).checkpoint.warnings
    assert "gives images of 48 x 48 pixels, and the model was trained with 32 x 32" in warning
    assert "--image-size 32 keeps that size" in warning
    asked = ExportOptions(model=str(checkpoint), image_size=40, repository=tmp_path / "none")
    assert load(sources.fetch_weights(sources.find(str(checkpoint), None)), asked).warnings == ()
    odd = ExportOptions(model=str(checkpoint), image_size=43, repository=tmp_path / "none")
    assert load(sources.fetch_weights(sources.find(str(checkpoint), None)), odd).warnings == (
        "images of 43 x 43 pixels are no multiple of the patches of tiny, which have 8 x 8: it ignores the last 3 rows "
        "and 3 columns",
    )
    done = run(app, ["export", str(checkpoint), "--repository", str(tmp_path / "r"), "--outputs", "pooled"])
    assert done.exit_code == 0, done.output
    assert f"warning: {warning}" in done.stderr.splitlines()
    manifest = json.loads((tmp_path / "r/tiny_pooled/1/manifest.json").read_text())
    assert manifest["warnings"] == [warning]
    assert manifest["source"]["weights_files"] == ["model.safetensors"]


def test_a_folder_called_model_is_named_after_the_one_above(checkpoint):
    """As in wheels: "model" would name nothing."""
    inside = checkpoint.parent / "flowers" / "model"
    shutil.copytree(checkpoint, inside)
    assert (sources.find(str(checkpoint), None).model_id, sources.find(str(inside), None).model_id) == (
        "tiny",
        "flowers",
    )


def test_images_of_another_size_are_nothing_to_tell_where_the_reference_takes_them(family, tmp_path):
    """DINOv2 interpolates by itself, and its checkpoints count on it; the windows of a Swin have one size anyway."""
    assert plan(checkpoints.tiny_dinov2(tmp_path / "dinov2")).checkpoint.warnings == ()
    swin = shutil.copytree(family("swin"), tmp_path / "swin")
    edit(swin, PROCESSOR, size={"height": 96, "width": 96})
    assert plan(swin).checkpoint.warnings == ()
