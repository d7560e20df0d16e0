"""Precision: what is quantized, how far it may move an embedding, and that the batch does not."""

import json
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support import small_models
from vitriton._repository.names import OUTPUT
from vitriton_export import ExportError, ExportOptions, ParityError, export_model
from vitriton_export._graph import onnx_export
from vitriton_export._graph import precision as _precision
from vitriton_export._graph.attention import attention
from vitriton_export._graph.encoder import Encoder
from vitriton_export._options import Precision
from vitriton_export._parity import gates as _gates
from vitriton_export._processors.processor import Normalization

NORMALIZATION = Normalization(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, ["CPUExecutionProvider"])


def _cosines(left, right):
    return (left * right).sum(-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Gives the pooled graph of an architecture at a precision, as a session; each is exported once."""
    folder, exported = tmp_path_factory.mktemp("graphs"), {}

    def make(name: str, precision: Precision, optimize="default") -> ort.InferenceSession:
        if (name, optimize) not in exported:
            model, architecture = small_models.make(name)
            encoder = Encoder(model, NORMALIZATION, architecture.pooling, prefix_tokens=1, l2_normalize=False).eval()
            with attention(model, fused=optimize == "default"):
                exported[name, optimize] = onnx_export.to_onnx(encoder, small_models.INPUTS)
        graph = onnx_export.with_output(exported[name, optimize], "embedding")
        _precision.finish(graph, precision, optimize)
        onnx_export.save(graph, folder, max_single_file_bytes=10**9)
        return _session(folder / "model.onnx")

    return make


@pytest.mark.parametrize("name", ["vit", "vit-mean", "dinov2", "dinov2-swiglu", "clip", "beit", "swin", "convnext"])
def test_int8_is_near_and_does_not_depend_on_the_batch(graphs, name):
    """Whatever the architecture, each image alone gives what it gives in a batch, and that is close to float32."""
    plain, quantized = graphs(name, "fp32"), graphs(name, "int8")
    together = quantized.run(None, {"pixels": PIXELS})[0]
    alone = np.concatenate([quantized.run(None, {"pixels": PIXELS[i : i + 1]})[0] for i in range(len(PIXELS))])
    assert np.abs(alone - together).max() <= 1e-5
    assert _cosines(together, plain.run(None, {"pixels": PIXELS})[0]).min() >= 0.99


def test_int8_does_not_depend_on_the_graph_s_layout(graphs):
    """`--optimize none` quantizes the same products: one fingerprint, one space."""
    one, other = (graphs("vit", "int8", optimize).run(None, {"pixels": PIXELS})[0] for optimize in ("default", "none"))
    assert _cosines(one, other).min() >= 0.9999


def test_int8_fast_depends_on_the_batch(graphs):
    """One scale for the whole batch: a dark image alone is not what it is beside a bright one."""
    session = graphs("vit", "int8-fast")
    dark, bright = np.full((1, 32, 32, 3), 10, np.uint8), np.random.default_rng(1).choice([0, 255], (1, 32, 32, 3))
    alone = session.run(None, {"pixels": dark})[0]
    together = session.run(None, {"pixels": np.concatenate([dark, bright.astype(np.uint8)])})[0][:1]
    assert not np.array_equal(alone, together)


def test_activations_are_quantized_once(tiny_vit_checkpoint, tmp_path):
    """Queries, keys and values share theirs: four for a block, and a product for each weight and the patches."""
    options = ExportOptions(
        model=str(tiny_vit_checkpoint), repository=tmp_path / "r", precision="int8", outputs="unpooled", min_cosine=0.9
    )
    export_model(options)
    ops = [node.op_type for node in onnx.load(tmp_path / "r/tiny-vit_unpooled_encoder/1/model.onnx").graph.node]
    assert ops.count("QuantizeLinear") == 2 * 4
    assert ops.count("MatMulIntegerToFloat") == 2 * 6 + 1
    assert "Conv" not in ops
    assert ops.count("MatMul") == 0


def _gate():
    """Where this CPU adds products exactly, a gate must pass; where they saturate, it may refuse the export."""
    return nullcontext() if _precision.adds_products_exactly() else suppress(ParityError)


@pytest.mark.long
def test_int8_of_trained_weights(trained_checkpoint, tmp_path):
    """DINOv2-small passes the gates: the worst image is at 0.995, and alone each is what it is in a batch."""
    repository = tmp_path / "r"
    options = ExportOptions(model=str(trained_checkpoint), repository=repository, precision="int8", outputs="pooled")
    with _gate():
        result = export_model(options)
        _, embedding, alone = result.parity
        assert (embedding.stage, alone.stage) == ("embedding", "embedding alone")
        assert embedding.min_cosine >= (0.995 if _precision.adds_products_exactly() else 0.99)
        assert alone.max_abs_error == 0.0
        assert _bytes_of_graphs(repository) < 26_000_000  # of 88 MB


@pytest.mark.long
def test_int8_fast_of_trained_weights(trained_checkpoint, tmp_path):
    """DINOv2-small passes its gates too."""
    repository = tmp_path / "r"
    options = ExportOptions(
        model=str(trained_checkpoint), repository=repository, precision="int8-fast", outputs="pooled"
    )
    with _gate():
        export_model(options)
        assert _bytes_of_graphs(repository) < 26_000_000


def _bytes_of_graphs(repository):
    return sum(path.stat().st_size for path in repository.rglob("model.onnx"))


@pytest.mark.long
def test_precisions_have_fingerprints_of_their_own_and_layouts_have_not(tiny_vit_checkpoint, tmp_path):
    """A precision moves vectors; the graph's layout and the type of the output do not name another space."""
    base = {"model": str(tiny_vit_checkpoint), "outputs": "pooled", "min_cosine": 0.9}
    choices = [{}, {"optimize": "none"}, {"output_dtype": "fp16"}, {"precision": "int8"}, {"precision": "int8-fast"}]
    prints = [
        export_model(ExportOptions(**base, **choice, repository=tmp_path / str(number))).manifest["fingerprint"]
        for number, choice in enumerate(choices)
    ]
    assert prints[0] == prints[1] == prints[2]
    assert len(set(prints)) == 3


def test_fp16_outputs(tiny_vit_checkpoint, tmp_path):
    """Half the bytes, said in the graph, the configs and the manifest; such models do not replace float32 ones."""
    base = {"model": str(tiny_vit_checkpoint), "repository": tmp_path / "r", "outputs": "unpooled"}
    result = export_model(ExportOptions(**base, output_dtype="fp16"))
    output = onnx.load(tmp_path / "r/tiny-vit_unpooled_encoder/1/model.onnx").graph.output[0]
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    for model in ("tiny-vit_unpooled", "tiny-vit_unpooled_encoder"):
        assert "TYPE_FP16" in (tmp_path / "r" / model / "config.pbtxt").read_text()
    assert result.manifest["outputs"]["tiny-vit_unpooled"]["data_type"] == "FP16"
    with pytest.raises(ExportError, match=r"another output of tiny-vit_unpooled_encoder .* data_type: TYPE_FP16"):
        export_model(ExportOptions(**base))


def test_min_cosine_moves_the_gate_and_the_manifest_says_so(tiny_vit_checkpoint, tmp_path):
    """A stricter one refuses what the precision's own lets pass; a laxer one is on record."""
    base = {"model": str(tiny_vit_checkpoint), "outputs": "pooled", "precision": "int8"}
    with pytest.raises(ParityError, match=r"required: cosine >= 0\.999999999"):
        export_model(ExportOptions(**base, repository=tmp_path / "r", min_cosine=0.999999999))
    export_model(ExportOptions(**base, repository=tmp_path / "r", min_cosine=0.5))
    manifest = json.loads((tmp_path / "r/tiny-vit_pooled/1/manifest.json").read_text())
    assert manifest["options"]["min_cosine"] == 0.5
    assert manifest["options"]["optimize"] == "default"
    gates = {stage["stage"]: stage["gate"] for stage in manifest["parity"]["stages"]}
    assert gates["embedding"] == "cosine >= 0.5 (set by --min-cosine)"
    assert gates["embedding alone"] == "cosine >= 0.99999"


@pytest.mark.parametrize(
    ("precision", "kind", "gate"),
    [
        ("fp32", "pooled", "max abs error <= 0.0003"),
        ("fp16", "unpooled", "cosine >= 0.9999"),
        ("int8", "pooled", "cosine >= 0.99"),
        ("int8", "unpooled", "cosine >= 0.98"),
        ("int8-fast", "pooled", "cosine >= 0.99"),
    ],
)
def test_gates(precision, kind, gate):
    """Each precision has its bound on the worst image; that of float32 grows with the values."""
    demanded = _gates.gates(precision)
    assert demanded[OUTPUT[kind]].describe(3.0) == gate
    alone = demanded[_gates.alone(OUTPUT[kind])].describe(3.0)
    assert alone == (gate if precision == "int8-fast" else "cosine >= 0.99999")


@pytest.mark.parametrize(
    ("precision", "device", "has_gpu", "text"),
    [
        ("fp16", "cpu", True, "fp16 is for GPUs"),
        ("fp16", "auto", False, "fp16 is for GPUs"),
        ("fp16", "auto", True, None),
        ("fp16", "gpu", False, None),
        ("int8", "gpu", False, "int8 is for CPUs"),
        ("int8-fast", "auto", True, "int8 is for CPUs"),
        ("int8", "cpu", True, None),
        ("fp32", "cpu", False, None),
    ],
)
def test_a_precision_that_makes_no_sense_for_the_device(precision, device, has_gpu, text, monkeypatch):
    """The user is told, with the reason; where nobody says what will serve, this machine stands for it."""
    monkeypatch.setattr(_precision, "adds_products_exactly", lambda: True)
    device_warning = _precision.device_warning(precision, device, has_gpu=has_gpu)
    assert device_warning is None if text is None else device_warning is not None and device_warning.startswith(text)


@pytest.mark.parametrize("exact", [True, False])
def test_a_cpu_whose_products_saturate(exact, monkeypatch):
    """The warning says so, before the gate measures it; the CPU of this machine is asked."""
    assert _precision.adds_products_exactly() in (True, False)
    monkeypatch.setattr(_precision, "adds_products_exactly", lambda: exact)
    warning = _precision.device_warning("int8", "cpu", has_gpu=False)
    assert warning is None if exact else warning is not None and "run `vitriton verify` there" in warning


@pytest.mark.parametrize("precision", ["int8", "int8-fast"])
def test_what_has_no_products_is_refused(graphs, precision):
    """int8 covers products of matrices; a model of convolutions gains nothing, and is told so."""
    with pytest.raises(ExportError, match=rf"{precision} speeds up products of matrices, and this model has none"):
        graphs("resnet", precision)
