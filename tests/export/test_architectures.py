"""Every architecture: what is known of it, and small models of some, exported whole. `make models` serves them all."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import transformers
from PIL import Image
from support import architectures, catalog
from support.architectures import SMALL
from transformers import AutoImageProcessor, AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES
from typer.testing import CliRunner
from vitriton.cli import app
from vitriton.preprocessing import PreprocessSpec, preprocess
from vitriton_export import ExportError, ExportOptions, export_model
from vitriton_export import _towers as towers
from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.checkpoint import load, outline
from vitriton_export._checkpoint.families import lacking
from vitriton_export._checkpoint.source import find
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES
from vitriton_export._graph.naflex import repeats_first_row, resize_position_embeddings

# What needs a package that is not there is refused, and named.
HERE = {name for name in SMALL if lacking(FAMILIES[name]) is None}
PAGE = Path(__file__).parents[2] / "docs/reference/models.md"
LISTED = sorted({*MODEL_FOR_IMAGE_MAPPING_NAMES, *FAMILIES})
PHOTO = Path(__file__).parents[2] / "examples/photos/cat.jpg"


def _served(result, kind, data):
    """What the installed graph gives for an image, with the installed preprocessing."""
    repository, name = result.repository, result.deployment.name
    spec = PreprocessSpec.from_json((repository / f"{name}_preprocess/1/preprocess.json").read_text())
    path = repository / f"{name}_{kind}_encoder/1/model.onnx"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": preprocess(data, spec)[None]})[0][0]


def _export(folder, repository, **options):
    return export_model(ExportOptions(model=str(folder), repository=repository, **options))


def _space(folder, repository, **options):
    """The fingerprint that an export would have."""
    chosen = ExportOptions(model=str(folder), repository=repository / "r", name="m", **options)
    return towers.plans(find(str(folder), None), chosen)[0].deployment.fingerprint


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes the small checkpoint of an architecture, once."""
    folder = tmp_path_factory.mktemp("architectures")

    def write(model_type):
        target = folder / model_type
        return target if target.is_dir() else architectures.write(model_type, target)

    return write


def test_every_architecture_is_taken_or_refused_with_a_reason():
    """What transformers lists for image features has a reason or a small model, and what is promised has one."""
    reasons = {model_type: catalog.refusal(model_type) for model_type in LISTED}
    taken = {model_type for model_type, reason in reasons.items() if not reason}
    assert taken == HERE
    assert taken >= catalog.PROMISED
    assert len(taken) >= 40
    assert not [name for name, reason in reasons.items() if "not known" in reason]


@pytest.mark.long
def test_every_base_model_that_takes_pixel_values_is_taken_or_refused_with_a_reason():
    """As above, for all of transformers: it imports each of its models."""
    reasons = {model_type: catalog.refusal(model_type) for model_type in catalog.image_types()}
    assert {model_type for model_type, reason in reasons.items() if not reason} == HERE
    assert not [name for name, reason in reasons.items() if "not known" in reason]
    text = PAGE.read_text()
    assert not [name for name in reasons if f"\n| `{name}` |" not in text], "run `make models`"


def test_the_page_has_a_row_for_every_architecture():
    """docs/reference/models.md is what `make models` last wrote."""
    text = PAGE.read_text()
    assert not [name for name in LISTED if f"\n| `{name}` |" not in text], "run `make models`"


def test_the_list_shows_what_can_be_exported():
    """--list names each architecture, what it takes, its poolings and what is peculiar, and exports nothing."""
    done = CliRunner().invoke(app, ["export", "--list"])
    assert done.exit_code == 0, done.output
    rows = {row[0]: row for row in (line.split("\t") for line in done.stdout.splitlines())}
    assert set(rows) >= {*FAMILIES, *TEXT_FAMILIES}
    missing = "'vitriton-export[timm]'" in done.stdout
    assert missing == (lacking(FAMILIES["timm_wrapper"]) is not None)
    assert rows["clip"][1:3] == ["images, texts", "auto pooler cls mean projection"]
    assert rows["gpt2"][1:3] == ["texts", "auto mean cls last max weighted-mean"]


def test_a_timm_model_brings_its_own_transforms(written, tmp_path):
    """Its config.json says how images are prepared: pixels as its transforms make them, outputs as transformers'."""
    pytest.importorskip("timm")
    pixels, *outputs = _export(written("timm_wrapper"), tmp_path / "r").parity
    assert pixels.max_abs_error == 0
    assert all(stage.passed for stage in outputs)
    with pytest.raises(ExportError, match="has no settings"):
        export_model(
            ExportOptions(
                model=str(written("timm_wrapper")), repository=tmp_path / "r", image_processor_kwargs={"size": 32}
            )
        )


@pytest.mark.parametrize("model_type", ["convnext", "dinov3_vit", "vit_mae"])
def test_small_models_pass_the_gate(written, tmp_path, model_type):
    """A convolutional model (a map), one whose pixels are floats, and one that the reference masks at random."""
    result = _export(written(model_type), tmp_path / "r")
    pixels, *outputs = result.parity
    assert pixels.max_abs_error <= (1e-5 if model_type == "dinov3_vit" else 0)
    assert all(stage.passed for stage in outputs)
    config = (tmp_path / f"r/{model_type}_preprocess/config.pbtxt").read_text()
    assert ("TYPE_FP32" in config) == (model_type == "dinov3_vit")


@pytest.mark.long
@pytest.mark.parametrize("start", range(0, len(HERE), 6))
def test_every_architecture_is_exported_and_served(tmp_path, start):
    """Pixels identical, outputs within 1e-4 of transformers, in the gate and through a real Triton."""
    wanted = sorted(HERE)[start : start + 6]
    results = list(catalog.check(wanted, tmp_path))
    assert [result for result in results if isinstance(result, catalog.Failure)] == []
    assert {result.model_type for result in results} == set(wanted)


def test_a_projection_is_the_vector_that_is_compared_with_text(written, tmp_path):
    """The full CLIP's get_image_features, from the vision tower and its projection alone."""
    folder = written("clip")
    options = ExportOptions(model=str(folder), repository=tmp_path / "r", pooling="projection", outputs="pooled")
    result = export_model(options)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    checkpoint = load(find(str(folder), None), options)
    inputs = checkpoint.image_processor([transformers.image_utils.load_image(str(PHOTO))], return_tensors="pt")
    with torch.no_grad():
        expected = model.get_image_features(**inputs)
    expected = getattr(expected, "pooler_output", expected)[0].numpy()
    assert expected.shape == (24,)
    assert np.abs(_served(result, "pooled", PHOTO.read_bytes()) - expected).max() < 1e-4
    assert "text_model" not in str(list(checkpoint.model.state_dict()))


@pytest.mark.long
def test_siglip_projects_in_its_pooler(written, tmp_path):
    """For SigLIP the pooler's output is compared with text, and both names are one embedding space."""
    folder = written("siglip")
    spaces = {
        export_model(ExportOptions(model=str(folder), repository=tmp_path / pooling, pooling=pooling)).manifest[
            "fingerprint"
        ]
        for pooling in ("pooler", "projection")
    }
    assert len(spaces) == 1


def test_a_full_model_and_its_vision_tower_are_one_embedding_space(written, tmp_path):
    """What a pooling of images alone takes of a full CLIP is its vision tower, which has the same fingerprint alone."""
    full = written("clip")
    tower = transformers.CLIPVisionModel.from_pretrained(full)
    tower.save_pretrained(tmp_path / "tower")
    (tmp_path / "tower/preprocessor_config.json").write_bytes((full / "preprocessor_config.json").read_bytes())
    assert _space(full, tmp_path, pooling="pooler") == _space(tmp_path / "tower", tmp_path)


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        (
            "vit",
            {"pooling": "projection"},
            "has no projection to compare with text; use --pooling auto, pooler, cls or mean",
        ),
        ("swin", {"pooling": "cls"}, "has no CLS token; use --pooling auto, pooler or mean"),
        ("siglip2_vision_model", {"image_size": 64}, "--image-size has no meaning for it"),
        ("vit", {"image_processor_kwargs": '{"sizes": 9}'}, "has no setting 'sizes'"),
        ("vit", {"image_processor_kwargs": '{"do_resize": false}'}, "gives images of different sizes"),
    ],
)
def test_what_cannot_be_is_refused_before_the_weights_are_looked_at(written, tmp_path, model_type, options, message):
    """The configuration and the image processor decide; here there are no weights at all."""
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((written(model_type) / name).read_bytes())
    with pytest.raises(ExportError) as caught:
        export_model(ExportOptions(model=str(tmp_path), repository=tmp_path / "r", name="m", **options))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("processor", "size", "steps"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, 48, ["resize 48x48"]),
        (
            {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "crop_size": 224},
            384,
            ["convert", "resize 439", "crop 384"],
        ),
        ({"image_processor_type": "DeiTImageProcessor"}, 112, ["resize 128x128", "crop 112"]),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875}, 224, ["resize 256", "crop 224"]),
        ({"image_processor_type": "LevitImageProcessor"}, 112, ["resize 128", "crop 112"]),
    ],
)
def test_another_image_size_keeps_the_proportion_of_resize_and_crop(written, tmp_path, processor, size, steps):
    """256 cropped to 224 becomes 439 cropped to 384, whatever kind of processor it is."""
    (tmp_path / "config.json").write_bytes((written("vit") / "config.json").read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    spec = outline(find(str(tmp_path), None), ExportOptions(image_size=size)).spec
    assert (spec.height, spec.width) == (size, size)
    assert [_short(step) for step in spec.steps] == steps


def _short(step):
    name = type(step).__name__
    if name == "Resize":
        return f"resize {step.shortest_edge or f'{step.height}x{step.width}'}"
    return "convert" if name == "ConvertRGB" else f"crop {step.height}"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"image_size": 48}, marks=pytest.mark.long),  # its steps are tested above
        {"image_processor_kwargs": '{"size": {"height": 48, "width": 40}}'},
    ],
    ids=["image-size", "image-processor-kwargs"],
)
def test_position_embeddings_are_interpolated_in_the_graph(written, tmp_path, options):
    """A model that was trained at 32 px, at others: the graph gives what transformers gives when it interpolates."""
    folder = written("vit")
    result = _export(folder, tmp_path / "r", **options)
    height, width = result.deployment.step.spec.height, result.deployment.step.spec.width
    model = AutoModel.from_pretrained(folder).eval()
    checkpoint = load(find(str(folder), None), ExportOptions(**options))
    inputs = checkpoint.image_processor([transformers.image_utils.load_image(str(PHOTO))], return_tensors="pt")
    assert inputs["pixel_values"].shape[2:] == (height, width) != (32, 32)
    with torch.no_grad():
        expected = model(**inputs, interpolate_pos_encoding=True).last_hidden_state[0].numpy()
    assert np.abs(_served(result, "unpooled", PHOTO.read_bytes()) - expected).max() < 1e-4


def test_another_image_size_is_another_embedding_space(written):
    """Vectors of one size may not be mixed with those of another: the specification says the size."""
    specs = {outline(find(str(written("vit")), None), ExportOptions(image_size=size)).spec for size in (None, 32, 48)}
    assert len(specs) == 2


def test_a_checkpoint_as_timm_writes_it(tmp_path):
    """Its config.json has no model_type, and its weights no prefix; it is what transformers makes of it."""
    timm = pytest.importorskip("timm")
    from timm.models._hub import save_for_hf

    torch.manual_seed(1)
    folder = tmp_path / "native"
    save_for_hf(timm.create_model("test_vit"), folder, safe_serialization=True)
    document = json.loads((folder / "config.json").read_text())
    document.pop("model_args", None)  # with num_classes in it transformers cannot build the model
    (folder / "config.json").write_text(json.dumps(document))
    assert "model_type" not in document
    result = _export(folder, tmp_path / "r")
    model = AutoModel.from_pretrained(folder).eval()
    inputs = AutoImageProcessor.from_pretrained(folder)(Image.open(PHOTO), return_tensors="pt")
    with torch.no_grad():
        expected = model(inputs["pixel_values"]).last_hidden_state[0].numpy()
    assert np.abs(_served(result, "unpooled", PHOTO.read_bytes()) - expected).max() < 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (2, 9), (7, 3), (1, 20), (20, 1), (4, 1), (16, 16)])
def test_position_embeddings_of_packed_patches_are_those_of_torch(shape):
    """One product of matrices gives what transformers' loop over images does, for larger and smaller grids."""
    embeddings, length = torch.randn(4, 5, 6), 256
    shapes = torch.tensor([shape, (3, 3)])
    expected = transformers.models.siglip2.modeling_siglip2.Siglip2VisionEmbeddings.resize_positional_embeddings(
        embeddings, shapes, length
    )
    assert torch.allclose(
        resize_position_embeddings(embeddings, shapes, length, repeats=repeats_first_row()), expected, atol=1e-5
    )
