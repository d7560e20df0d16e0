"""The head of a fine-tuned checkpoint: it is not exported, the user is told, and it can be applied to embeddings."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from support import architectures
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton_export import ExportError, ExportOptions
from vitriton_export._checkpoint import heads
from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.checkpoint import Checkpoint, load
from vitriton_export._parity.compare import Reference
from vitriton_export._towers import images as _images

LABELS = 5


def fine_tuned(model_type: str, model_class: str, folder: Path) -> Path:
    """A small checkpoint with a head of random weights."""
    architectures.write(model_type, folder)
    config = AutoConfig.from_pretrained(folder, num_labels=LABELS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(config)
        for parameter in model.parameters():  # freshly made heads are almost zero
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path, options: ExportOptions | None = None) -> Checkpoint:
    return load(sources.fetch_weights(sources.find(str(folder), None)), options)


def photo() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def embedded(checkpoint: Checkpoint, pooling: str) -> np.ndarray:
    """The embedding of the photo, (1, D)."""
    return Reference(checkpoint, pooling, l2_normalize=False).run([photo()]).values["embedding"]


def classified(checkpoint: Checkpoint, folder: Path) -> np.ndarray:
    """The logits of transformers for the photo, (1, labels)."""
    image = Image.open(io.BytesIO(photo()))
    with torch.no_grad():
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
        return model(**checkpoint.image_processor([image], return_tensors="pt")).logits.numpy()


def run_the_documented_code(folder: Path, checkpoint: Checkpoint) -> np.ndarray:
    """The logits of the block in docs/guides/export.md, with the reference in the place of a server."""
    text = (Path(__file__).parents[2] / "docs" / "guides" / "export.md").read_text()
    block = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "logits" in block)

    class Client:
        def __init__(self, address, model):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def embed(self, images):
            options = ExportOptions(model=str(folder), repository=folder.parent / "none")
            return embedded(checkpoint, _images.plan(options, checkpoint).deployment.pooling)

    names = {}
    code = block.replace("from vitriton import Client\n", "").replace("my-checkpoint/", f"{folder}/")
    exec(code, {"Client": Client} | names, names)
    return names["logits"]


@pytest.mark.parametrize(("model_type", "name"), [("vit", "ViT"), ("swin", "Swin")])
def test_the_documented_code_gives_the_logits(model_type, name, tmp_path):
    """With --pooling auto, the embedding is what the head of these models was trained on."""
    folder = fine_tuned(model_type, f"{name}ForImageClassification", tmp_path / "tuned")
    checkpoint = loaded(folder)
    np.testing.assert_allclose(
        run_the_documented_code(folder, checkpoint), classified(checkpoint, folder), atol=1e-4, rtol=1e-4
    )


def test_a_head_on_the_mean_of_the_patches(tmp_path):
    """CLIP's classifier takes --pooling mean, as docs/guides/export.md says."""
    folder = fine_tuned("clip", "CLIPForImageClassification", tmp_path / "tuned")
    checkpoint = loaded(folder)
    head = AutoModelForImageClassification.from_pretrained(folder).classifier
    with torch.no_grad():
        logits = head(torch.from_numpy(embedded(checkpoint, "mean"))).numpy()
    np.testing.assert_allclose(logits, classified(checkpoint, folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "model_class", "modules", "labels", "inputs"),
    [
        ("segformer", "SegformerForSemanticSegmentation", ("decode_head",), LABELS, None),
        ("vit_mae", "ViTMAEForPreTraining", ("decoder",), None, None),
        (
            "deit",
            "DeiTForImageClassificationWithTeacher",
            ("cls_classifier", "distillation_classifier"),
            LABELS,
            32,
        ),
        ("yolos", "YolosForObjectDetection", ("bbox_predictor", "class_labels_classifier"), LABELS, 32),
    ],
)
def test_heads_of_other_kinds(model_type, model_class, modules, labels, inputs, tmp_path):
    """Whatever the head is for, it is named."""
    head = loaded(fine_tuned(model_type, model_class, tmp_path / "tuned")).head
    assert head == heads.Head(model=model_class, modules=modules, labels=labels, inputs=inputs)


@pytest.mark.parametrize(
    ("model_type", "model_class"),
    [
        ("dinov2", "Dinov2ForImageClassification"),
        ("swin", "SwinForImageClassification"),
        ("clip", "CLIPForImageClassification"),
    ],
)
def test_the_advice_on_a_prefix_keeps_the_head(model_type, model_class, tmp_path):
    """The prefix of a wrapper (DataParallel) is told apart from that of the base model, which belongs to the names."""
    folder = fine_tuned(model_type, model_class, tmp_path / "tuned")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, path, {"format": "pt"})
    with pytest.raises(ExportError) as refused:
        loaded(folder)
    prefix = re.search("begin with '(.*)': remove this prefix", str(refused.value))[1]
    save_file({f"module.{name}".removeprefix(prefix): each for name, each in tensors.items()}, path, {"format": "pt"})
    assert loaded(folder).head.modules == ("classifier",)


@pytest.mark.parametrize(
    ("model_class", "pooling", "dimensions", "fit"),
    [
        ("ViTForImageClassification", "cls", 8, "the embeddings are the features before it"),
        (
            "ViTForImageClassification",
            "mean",
            8,
            "to apply it to embeddings, export with --pooling cls, which it takes",
        ),
        ("CLIPForImageClassification", "pooler", 8, "export with --pooling mean, which it takes"),
        ("ViTForImageClassification", None, None, "its forward method in transformers says what it takes"),
        ("YolosForObjectDetection", "cls", 8, "its forward method in transformers says what it takes"),
        ("Dinov2ForImageClassification", "cls", 4, "it takes 8 numbers, and embeddings have 4: it cannot be applied"),
    ],
)
def test_the_note_says_whether_the_head_fits(model_class, pooling, dimensions, fit):
    """By the widths, and by what the class is known to take."""
    head = heads.Head(model=model_class, modules=("classifier",), labels=2, inputs=8)
    assert fit in head.note("m", pooling, dimensions)


@pytest.mark.parametrize("model_type", ["swin", "clip", "dinov2"])
def test_the_width_is_that_of_the_weights(model_type, tmp_path):
    """In either format of a file; DINOv2's head takes two vectors."""
    names = {"swin": "Swin", "clip": "CLIP", "dinov2": "Dinov2"}
    folder = fine_tuned(model_type, f"{names[model_type]}ForImageClassification", tmp_path / "tuned")
    tensors = load_file(folder / "model.safetensors")
    width = tensors["classifier.weight"].shape[1]
    checkpoint = loaded(folder)
    assert checkpoint.head.inputs == width
    assert width == embedded(checkpoint, "mean").shape[1] * (2 if model_type == "dinov2" else 1)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert loaded(folder).head.inputs == width


def test_the_documented_poolings_are_those_that_the_note_names():
    """The table in docs/guides/export.md has a class for each entry."""
    text = (Path(__file__).parents[2] / "docs" / "guides" / "export.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `") and "ForImageClassification" in line]
    taken = {name: row.split("|")[2] for row in rows for name in re.findall(r"\w+ForImageClassification", row)}
    assert taken.keys() - heads.TAKES.keys() == {"Dinov2ForImageClassification"}
    assert [name for name, pooling in heads.TAKES.items() if pooling not in taken[name]] == []


@pytest.mark.parametrize("model_type", ["vit", "clip", "siglip"])
def test_other_weights_are_no_head(model_type, tmp_path):
    """A base model has none, and the text tower beside an exported vision tower is none."""
    assert loaded(architectures.write(model_type, tmp_path / "base")).head is None


def test_layers_and_buffers_that_are_not_read_are_no_head():
    """Only a module that the model does not have is one."""
    model = nn.Sequential(nn.Linear(2, 2))
    assert heads.find(None, model, {"0.scale": (), "position_ids": ()}, is_tower=False) is None
    found = heads.find(None, model, {"0.scale": (2,), "1.weight": (5, 2), "1.bias": (5,)}, is_tower=False)
    assert found == heads.Head(model=None, modules=("1",), labels=None, inputs=2)
    assert found.note("m", "cls", 2).startswith("m has a head (1) that is not exported; ")
    assert heads.find(None, model, {"text.weight": ()}, is_tower=True) is None


@pytest.mark.parametrize(
    "architecture", [None, [], "ViTForImageClassification", [None], ["x\n"], ["ViTModel"], [["a"]]]
)
def test_any_architecture_in_a_configuration(architecture):
    """What names no class with a head is left out of the line."""

    class Config:
        architectures = architecture
        num_labels = 7

    found = heads.find(Config, nn.Linear(2, 2), {"classifier.weight": ()}, is_tower=False)
    assert found == heads.Head(model=None, modules=("classifier",), labels=None)


def test_the_command_says_it_and_the_manifest_has_it(classifier_checkpoint, tmp_path):
    """One line, which is no warning; a base model has neither."""
    command = ["export", str(classifier_checkpoint), "--repository", str(tmp_path / "r"), "--outputs", "pooled"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stderr.splitlines() if "head" in line]
    assert line == (
        "note: tiny-classifier is a ViTForImageClassification: its head (classifier, 2 labels) is not exported; the "
        'embeddings are the features before it ("Heads" in the documentation)'
    )
    manifest = json.loads((tmp_path / "r/tiny-classifier_pooled/1/manifest.json").read_text())
    assert manifest["head"] == {
        "exported": False,
        "model": "ViTForImageClassification",
        "modules": ["classifier"],
        "labels": 2,
        "inputs": 32,
    }
    assert manifest["warnings"] == []
