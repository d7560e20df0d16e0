"""The graph's rewrites: the same numbers with less work, whatever the architecture."""

import functools
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from support import small_models
from vitriton_export._graph import onnx_export, rewrites
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


def _run(model, pixels=PIXELS):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


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


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", [name for name, one in small_models.ARCHITECTURES.items() if one.slim])
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


def test_the_model_is_left_with_eager_attention():
    """What was registered with transformers for the export is gone afterwards, also when the export fails."""
    encoder = _encoder("vit")
    with pytest.raises(RuntimeError, match="on purpose"), attention(encoder.model, fused=True):
        raise RuntimeError("on purpose")
    assert encoder.model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="vitriton_fused"):
        encoder.model.set_attn_implementation("vitriton_fused")
