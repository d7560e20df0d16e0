"""Exports of small models, whole: what they write, what they prove, and what they leave alone when they fail."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors.torch
from PIL import Image
from support import checkpoints, graphs
from transformers import AutoImageProcessor, pipeline
from vitriton.preprocessing import PreprocessSpec, preprocess
from vitriton_export import ExportError, ExportOptions, ParityError, export_model
from vitriton_export._export import prepare


def _snapshot(folder: Path):
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_vit_checkpoint):
    """A small ViT with a trained pooler, exported."""
    repository = tmp_path_factory.mktemp("exported") / "repository"
    return export_model(ExportOptions(model=str(tiny_vit_checkpoint), repository=repository))


def test_it_writes_five_models_and_a_manifest(exported):
    """The folders, the manifest beside both ensembles, and the same fingerprint in the configs."""
    repository = exported.repository
    assert sorted(path.name for path in repository.iterdir()) == sorted(
        f"tiny-vit_{part}" for part in ("pooled", "unpooled", "preprocess", "pooled_encoder", "unpooled_encoder")
    )
    manifests = [
        json.loads((repository / f"tiny-vit_{kind}/1/manifest.json").read_text()) for kind in ("pooled", "unpooled")
    ]
    assert manifests[0] == manifests[1] == exported.manifest
    for kind in ("pooled", "unpooled"):
        config = (repository / f"tiny-vit_{kind}" / "config.pbtxt").read_text()
        assert f'"{manifests[0]["fingerprint"]}"' in config
        assert f'"{manifests[0]["versions"]["pillow"]}"' in config
    assert list(repository.parent.iterdir()) == [repository]


def test_the_manifest_says_where_an_embedding_comes_from(exported):
    """Source, weights, versions, pooling, outputs, hashes of the graphs, parity."""
    manifest = exported.manifest
    assert manifest["source"]["model"] == "tiny-vit"
    assert manifest["pooling"] == "pooler"
    assert manifest["versions"].keys() >= {
        "pillow",
        "torch",
        "transformers",
        "onnxruntime",
        "python",
        "vitriton-export",
    }
    assert manifest["outputs"]["tiny-vit_unpooled"]["dims"] == [17, 32]
    written = [path.relative_to(exported.repository) for path in exported.repository.rglob("*/1/**/*")]
    listed = {f"{path.parts[0]}/{'/'.join(path.parts[2:])}" for path in written if path.suffix}
    assert set(manifest["files"]) == listed - {f"tiny-vit_{kind}/manifest.json" for kind in ("pooled", "unpooled")}
    stages = [stage["stage"] for stage in manifest["parity"]["stages"]]
    assert stages == ["pixels", "embedding", "last_hidden_state", "embedding alone", "last_hidden_state alone"]
    assert list(manifest["parity"]["gates"]) == stages
    assert all(stage["passed"] for stage in manifest["parity"]["stages"])


def test_the_graphs_load_in_any_supported_triton(exported):
    """uint8 pixels, a dynamic batch, one output, opset at most 21, IR at most 10."""
    for kind, output in (("pooled", "embedding"), ("unpooled", "last_hidden_state")):
        model = onnx.load(exported.repository / f"tiny-vit_{kind}_encoder/1/model.onnx")
        assert model.ir_version <= 10
        assert max(entry.version for entry in model.opset_import if entry.domain == "") <= 21
        (pixels,), (result,) = model.graph.input, model.graph.output
        assert (pixels.name, result.name) == ("pixels", output)
        assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert pixels.type.tensor_type.shape.dim[0].dim_param
        assert [dim.dim_value for dim in pixels.type.tensor_type.shape.dim][1:] == [32, 32, 3]


def test_the_graphs_hold_no_paths(exported):
    """Torch writes stack traces into every node; none is shipped."""
    for path in exported.repository.rglob("model.onnx"):
        data = path.read_bytes()
        assert b"site-packages" not in data
        assert str(Path(__file__).parents[2]).encode() not in data


def test_each_graph_holds_what_its_output_needs(exported):
    """The unpooled graph has no pooler."""
    names = {
        kind: {
            tensor.name
            for tensor in onnx.load(exported.repository / f"tiny-vit_{kind}_encoder/1/model.onnx").graph.initializer
        }
        for kind in ("pooled", "unpooled")
    }
    assert any("pooler" in name for name in names["pooled"])
    assert not any("pooler" in name for name in names["unpooled"])


@pytest.mark.parametrize("make", [checkpoints.tiny_deit, checkpoints.tiny_dinov2], ids=lambda make: make.__name__)
@pytest.mark.parametrize("pooling", [pytest.param("mean", marks=pytest.mark.long), "cls"])
def test_other_architectures_and_poolings(make, pooling, tmp_path):
    """DeiT and DINOv2 pass the gate with each pooling; L2-normalized embeddings have length 1.

    The mean, not normalized, is tested below with both.
    """
    options = ExportOptions(
        model=str(make(tmp_path / "model")),
        repository=tmp_path / "r",
        pooling=pooling,
        l2_normalize=True,
        outputs="pooled",
    )
    result = export_model(options)
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "model_pooled",
        "model_pooled_encoder",
        "model_preprocess",
    ]
    session = ort.InferenceSession(tmp_path / "r/model_pooled_encoder/1/model.onnx", providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    assert np.linalg.norm(session.run(None, {"pixels": pixels})[0], axis=1) == pytest.approx(1, abs=1e-6)
    assert result.deployment.pooling == pooling


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (checkpoints.tiny_deit, 2),
        (checkpoints.tiny_dinov2, 1),
        pytest.param(checkpoints.tiny_vit, 1, marks=pytest.mark.long),  # has as many as DINOv2
    ],
)
def test_mean_is_the_mean_of_the_patches(make, prefix, tmp_path):
    """Without CLS and distillation token, computed here from transformers' own tokens."""
    checkpoint = make(tmp_path / "model")
    options = ExportOptions(model=str(checkpoint), repository=tmp_path / "r", pooling="mean", outputs="pooled")
    export_model(options)
    version = tmp_path / "r/model_preprocess/1"
    photo = Path(__file__).parents[2] / "examples/photos/cat.jpg"
    pixels = preprocess(photo.read_bytes(), PreprocessSpec.from_json((version / "preprocess.json").read_text()))
    session = ort.InferenceSession(tmp_path / "r/model_pooled_encoder/1/model.onnx", providers=["CPUExecutionProvider"])
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    reference = pipeline("image-feature-extraction", model=str(checkpoint), image_processor=processor)
    with Image.open(photo) as image:
        tokens = reference(image, return_tensors=True).numpy()
    expected = tokens[:, prefix:].mean(axis=1)
    assert session.run(None, {"pixels": pixels[None]})[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.long
def test_two_names_of_one_space_have_one_fingerprint(tmp_path):
    """DINOv2's pooler has no parameters and is CLS: its vectors are the same, and so is the fingerprint."""
    checkpoint = checkpoints.tiny_dinov2(tmp_path / "model")
    results = [
        export_model(ExportOptions(model=str(checkpoint), repository=tmp_path / "r", pooling=pooling, outputs="pooled"))
        for pooling in ("pooler", "cls")
    ]
    assert results[0].manifest["fingerprint"] == results[1].manifest["fingerprint"]


def test_a_checkpoint_without_pooler_gets_cls(classifier_checkpoint, tmp_path):
    """A classifier's file holds no pooler: auto takes CLS, by name it is refused, on demand it is noise."""
    options = {"model": str(classifier_checkpoint), "outputs": "pooled"}
    assert export_model(ExportOptions(**options, repository=tmp_path / "auto")).deployment.pooling == "cls"
    with pytest.raises(ExportError, match=r"untrained: the checkpoint has no pooler\.dense\.bias.*--pooling auto"):
        export_model(ExportOptions(**options, repository=tmp_path / "r", pooling="pooler"))
    assert not (tmp_path / "r").exists()
    allowed = ExportOptions(**options, repository=tmp_path / "r", pooling="pooler", allow_untrained_pooler=True)
    (plan,) = prepare(allowed, contextlib.nullcontext)
    assert plan.deployment.pooling == "pooler"


def test_fp16_is_gated_on_cosine(tiny_vit_checkpoint, tmp_path):
    """Half-size weights, float32 outputs, its own fingerprint."""
    result = export_model(
        ExportOptions(model=str(tiny_vit_checkpoint), repository=tmp_path / "r", precision="fp16", outputs="pooled")
    )
    model = onnx.load(tmp_path / "r/tiny-vit_pooled_encoder/1/model.onnx")
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    assert "cosine >= 0.9999" in [stage.gate for stage in result.parity]


def test_weights_too_large_for_one_file_lie_beside_the_graph(tiny_vit_checkpoint, tmp_path):
    """With external data the graph loads and passes the gate as well."""
    options = ExportOptions(
        model=str(tiny_vit_checkpoint), repository=tmp_path / "r", outputs="unpooled", max_single_file_bytes=1000
    )
    result = export_model(options)
    graphs = {name: entry for name, entry in result.manifest["files"].items() if "/model.onnx" in name}
    assert [Path(name).name for name in graphs] == ["model.onnx", "model.onnx.data"]
    assert graphs["tiny-vit_unpooled_encoder/model.onnx.data"]["bytes"] > 50_000


def test_the_same_export_again_replaces_it(exported, tiny_vit_checkpoint):
    """One fingerprint, so it may; a model that somebody else put there stays."""
    other = exported.repository / "other" / "config.pbtxt"
    other.parent.mkdir()
    other.write_text('backend: "python"')
    before = _snapshot(exported.repository)
    again = export_model(ExportOptions(model=str(tiny_vit_checkpoint), repository=exported.repository))
    after = _snapshot(exported.repository)
    assert again.manifest["fingerprint"] == exported.manifest["fingerprint"]
    assert before.pop("other/config.pbtxt") == after.pop("other/config.pbtxt")
    assert {name.replace("/1/", "/2/") for name in before} == set(after)


def _overflowing(checkpoint: Path, folder: Path) -> Path:
    """A model whose weights are beyond float16: its fp16 export cannot be right."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: tensor * (1e6 if "layernorm_after.weight" in name else 1) for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_breach_of_parity_leaves_everything_as_it_was(exported, tiny_vit_checkpoint, tmp_path):
    """An export whose numbers are wrong is refused with stage, image and figures, and the old models stay."""
    model = _overflowing(tiny_vit_checkpoint, tmp_path / "overflowing")
    before = _snapshot(exported.repository)
    with pytest.raises(
        ParityError, match=r"not installed: embedding of .*\.(jpg|png|gif|webp|tiff): .*cosine >= 0\.9999"
    ):
        export_model(ExportOptions(model=str(model), repository=exported.repository, precision="fp16"))
    assert _snapshot(exported.repository) == before
    assert list(exported.repository.parent.iterdir()) == [exported.repository]


def test_another_embedding_space_does_not_replace_it(exported, tmp_path):
    """Other weights under the same name are refused before the work is done."""
    other = checkpoints.tiny_vit(tmp_path / "tiny-vit", layer_norm_eps=1e-3, num_hidden_layers=1)
    before = _snapshot(exported.repository)
    with pytest.raises(
        ExportError, match=r"another embedding space as tiny-vit, .* mixed: the weights are others; its"
    ):
        export_model(ExportOptions(model=str(other), repository=exported.repository))
    assert _snapshot(exported.repository) == before


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_vit_checkpoint, tmp_path):
    """What would be random is not exported."""
    model = tmp_path / "partial"
    model.mkdir()
    for path in tiny_vit_checkpoint.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = safetensors.torch.load_file(model / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if "layernorm_after" not in name}
    safetensors.torch.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"lacks 4 weights of ViTModel, which would be random: .*layernorm_after"):
        export_model(ExportOptions(model=str(model), repository=tmp_path / "r"))


def test_a_damaged_weight_file_is_an_error_of_one_line(tiny_vit_checkpoint, tmp_path):
    """A file that was cut off does not end in a traceback."""
    model = tmp_path / "damaged"
    model.mkdir()
    for path in tiny_vit_checkpoint.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(ExportError, match="is damaged or only a part of the file"):
        export_model(ExportOptions(model=str(model), repository=tmp_path / "r"))


# A write beyond the limit fails as it does on a full disk.
EXPORT_ON_A_SMALL_DISK = f"""
import resource
{graphs.IMPORT}
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
graphs.main()
"""


@pytest.mark.usefixtures("exported")  # the graph is kept by now
def test_a_write_that_fails_is_an_error_of_one_line(tiny_vit_checkpoint, tmp_path):
    """The disk gives out in the middle of the graph: exit code 1, one line, nothing left, nothing changed."""
    command = [
        sys.executable,
        "-c",
        EXPORT_ON_A_SMALL_DISK,
        "export",
        str(tiny_vit_checkpoint),
        "--repository",
        str(tmp_path / "r"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: repository {tmp_path}/r cannot be written to: File too large; choose another --repository"
    )
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
