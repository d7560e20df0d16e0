"""The graph's rewrites: the same numbers with less work, whatever the architecture."""

import functools
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from support import small_models
from vitriton_export._graph import onnx_export, quantize, rewrites, smooth
from vitriton_export._graph.attention import attention
from vitriton_export._graph.encoder import Encoder
from vitriton_export._processors.processor import Normalization

NORMALIZATION = Normalization(1 / 255, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def _encoder(name):
    model, architecture = small_models.make(name)
    return Encoder(model, NORMALIZATION, architecture.pooling, prefix_tokens=1, l2_normalize=False).eval()


@functools.cache
def _exported(name, *, fused=True):
    """A graph that no test changes: `with_output` copies what it takes of it."""
    encoder = _encoder(name)
    with attention(encoder.model, fused=fused):
        return onnx_export.to_onnx(encoder, small_models.INPUTS)


def _run(model, **inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, inputs or {"pixels": PIXELS})[0]


def _ops(model):
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("name", small_models.ARCHITECTURES)
def test_rewrites_change_no_number(name):
    """Optimized, both outputs of each architecture equal torch's as the plain graph's do."""
    encoder = _encoder(name)
    with torch.no_grad():
        expected = [output.numpy() for output in encoder(torch.from_numpy(PIXELS))]
    exported = _exported(name)
    for output, target in zip(onnx_export.OUTPUTS, expected, strict=True):
        graph = onnx_export.with_output(exported, output)
        rewrites.optimize(graph)
        assert [value.name for value in graph.graph.outputs] == [output]
        assert np.abs(_run(graph) - target).max() <= 1e-5 * max(1.0, np.abs(target).max())


@pytest.mark.parametrize("name", small_models.ARCHITECTURES)
def test_attention_is_fused_where_it_can_be(name):
    """One node a layer; where there are biases, masks or other attention, the architecture's own stays."""
    graph = onnx_export.with_output(_exported(name), "last_hidden_state")
    assert _ops(graph)["MultiHeadAttention"] == small_models.ARCHITECTURES[name].attentions


SLIM = [name for name, one in small_models.ARCHITECTURES.items() if one.slim]
EAGER = {"vit", "beit"}  # the others have the eager attention of one of them, and are long


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        *((name, True) for name in SLIM),
        *(pytest.param(name, False, marks=() if name in EAGER else pytest.mark.long) for name in SLIM),
    ],
)
def test_the_last_block_works_for_one_token(name, fused):
    """With CLS pooling, the last query, its projection and the MLP have one row; with eager attention too."""
    graph = onnx_export.with_output(_exported(name, fused=fused), "embedding")
    before = _rows(graph)
    rewrites.optimize(graph)
    after = _rows(graph)
    assert min(before) > 1
    # query, output projection, and the MLP's two or three products
    assert after.count(1) >= 4
    assert len(after) == len(before)


def _rows(graph):
    """The number of rows of each product with a constant weight."""
    return [
        int(node.outputs[0].shape[-2])
        for node in graph.graph
        if node.op_type == "MatMul" and node.inputs[1].const_value is not None
    ]


def test_what_all_tokens_need_is_left_alone():
    """With mean pooling every token counts: the graph keeps its products as they are."""
    graph = onnx_export.with_output(_exported("vit-mean"), "embedding")
    before = _rows(graph)
    rewrites.narrow(graph)
    assert _rows(graph) == before


def test_no_clutter_is_left():
    """Neither checks for masked rows nor masks nor chains of Reshape around the attention."""
    graph = onnx_export.with_output(_exported("vit"), "last_hidden_state")
    rewrites.optimize(graph)
    ops = _ops(graph)
    assert not ops.keys() & {"IsNaN", "Where", "Softmax"}
    assert ops["Reshape"] == 1  # the patches


@pytest.mark.parametrize("residual", [False, True], ids=["in the weights", "beside a residual"])
def test_smoothing_changes_no_number(tmp_path, residual):
    """A channel of large values is divided, and the weights that it meets are multiplied, to the last bit."""
    graph = _normalized(residual=residual)
    x = np.random.default_rng(1).normal(size=(2, 3, 16)).astype(np.float32)
    before = _run(graph, x=x)
    smooth.smooth(graph, [{"x": x}], tmp_path)
    np.testing.assert_array_equal(_run(graph, x=x), before)
    weight = next(layer.weight for layer in quantize.layers(graph))
    assert weight[3].min() >= 8 > 2 >= np.delete(weight, 3, axis=0).max()
    assert _ops(graph)["Mul"] == residual
    assert not list(tmp_path.iterdir())


def _normalized(*, residual):
    """LayerNormalization with one channel 100 times the others, a linear layer of ones, and perhaps a residual."""
    shape = ir.Shape(["batch", "length", 16])
    x, y = ir.val("x", ir.DataType.FLOAT, shape), ir.val("y", ir.DataType.FLOAT, shape)
    scale = np.where(np.arange(16) == 3, 100, 1).astype(np.float32)
    content = {"scale": scale, "bias": np.zeros(16, np.float32), "weight": np.ones((16, 16), np.float32)}
    weights = {name: ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in content.items()}
    norm = ir.node("LayerNormalization", [x, weights["scale"], weights["bias"]])
    norm.outputs[0].name, norm.outputs[0].shape, norm.outputs[0].dtype = "norm", shape, ir.DataType.FLOAT
    product = ir.node("MatMul", [norm.outputs[0], weights["weight"]], outputs=None if residual else [y])
    nodes = [norm, product]
    if residual:
        product.outputs[0].name = "product"
        nodes.append(ir.node("Sum", [product.outputs[0], norm.outputs[0]], outputs=[y]))
    graph = ir.Graph([x], [y], nodes=nodes, initializers=[*weights.values()], opset_imports={"": 20}, name="normalized")
    return ir.Model(graph, ir_version=10)


def test_the_model_is_left_with_eager_attention():
    """What was registered with transformers for the export is gone afterwards, also when the export fails."""
    encoder = _encoder("vit")
    with pytest.raises(RuntimeError, match="on purpose"), attention(encoder.model, fused=True):
        raise RuntimeError("on purpose")
    assert encoder.model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="vitriton_fused"):
        encoder.model.set_attn_implementation("vitriton_fused")
