"""Smoothing before int8: no channel of a layer's input is much larger than the others.

A token has one scale, which its largest channel decides. In many language models, a few channels are tens of times
larger than the others, which are then left with a few levels. So each channel is divided by a factor, and the weights
that it meets are multiplied by it, as in SmoothQuant (https://arxiv.org/abs/2211.10438). The factors are powers of two,
so that nothing is rounded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from vitriton_export._graph.ir import Array, array, constant, dims, graph_of, insert
from vitriton_export._graph.linear import Linear
from vitriton_export._graph.onnx_export import save
from vitriton_export._graph.quantize import layers

_EXPONENT = 0.5  # SmoothQuant's: activations and weights share the difficulty
_SMALLEST = 1e-6  # times the largest channel
_SINGLE_FILE_BYTES = 1_000_000_000

Feed = Mapping[str, Array]


def smooth(model: ir.Model, examples: Sequence[Feed], folder: Path | None) -> None:
    """Smooths the inputs of linear layers that a normalization makes, in place.

    Args:
        model: the model in float32.
        examples: the inputs for which the channels' largest values are computed: name → array.
        folder: the folder in which the model is written for that, and removed; None: the system's.
    """
    readers: dict[ir.Value, list[Linear]] = {}
    for layer in layers(model):
        if layer.product.op_type == "MatMul" and _is_normalized(layer.x):
            readers.setdefault(layer.x, []).append(layer)
    for x, largest in zip(readers, _largest(model, list(readers), examples, folder), strict=True):
        bounded = np.maximum(largest, max(_SMALLEST * largest.max(), np.finfo(np.float32).tiny))
        factors = np.exp2(np.round(np.log2(bounded) * _EXPONENT)).astype(np.float32)
        _divide(x, factors, readers[x])
        for layer in readers[x]:
            layer.change(layer.weight * factors[:, np.newaxis], layer.bias)


def _is_normalized(x: ir.Value) -> bool:
    """Whether a value is the result of LayerNormalization, or of a product with a weight for each channel (RMSNorm)."""
    node = x.producer()
    if node is None or dims(x) is None:
        return False
    return node.op_type == "LayerNormalization" or (node.op_type == "Mul" and _weight_place(node) is not None)


def _weight_place(node: ir.Node) -> int | None:
    places = (place for place, given in enumerate(node.inputs) if (found := array(given)) is not None and found.ndim)
    return next(places, None)


def _largest(model: ir.Model, wanted: Sequence[ir.Value], examples: Sequence[Feed], folder: Path | None) -> list[Array]:
    """Returns the largest absolute value of each channel of each value, (K,) float32."""
    if not wanted:
        return []
    measured = model.clone()
    found = {each.name: each for node in measured.graph for each in node.outputs}
    measured.graph.outputs.clear()
    for number, original in enumerate(wanted):
        x = found[original.name]
        axes = ir.node("Constant", [], {"value_ints": list(range(len(dims(original) or ()) - 1))})
        size = ir.node("Abs", [x])
        result = ir.node("ReduceMax", [size.outputs[0], axes.outputs[0]], {"keepdims": 0})
        result.outputs[0].name, result.outputs[0].dtype = f"largest_{number}", ir.DataType.FLOAT
        measured.graph.extend([axes, size, result])
        measured.graph.outputs.append(result.outputs[0])
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path, *_ = save(measured, Path(name), max_single_file_bytes=_SINGLE_FILE_BYTES)
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        results = [session.run(None, dict(feed)) for feed in examples]
    return [np.max(arrays, axis=0) for arrays in zip(*results, strict=True)]


def _divide(x: ir.Value, factors: Array, readers: Sequence[Linear]) -> None:
    """Divides the channels of `x` for these readers: in the normalization's weights if nothing else reads it."""
    node = x.producer()
    assert node is not None  # _is_normalized has checked it
    products = [layer.product for layer in readers]
    if {*x.consumers()} == {*products} and not x.is_graph_output():
        places = (1, 2) if node.op_type == "LayerNormalization" else (_weight_place(node),)
        weights = {
            place: array(node.inputs[place]) for place in places if place is not None and place < len(node.inputs)
        }
        if all(weight is not None and weight.shape == factors.shape for weight in weights.values()):
            for place, weight in weights.items():
                node.replace_input_with(place, constant(graph_of(node), weight / factors))
            return
    divided = insert(products[0], "Mul", [x, constant(graph_of(node), 1 / factors)])
    divided.type, divided.shape = x.type, x.shape
    for product in products:
        product.replace_input_with(0, divided)
