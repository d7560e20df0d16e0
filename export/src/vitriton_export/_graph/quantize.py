"""int8 by rewriting the graph: constant weights in int8, activations quantized at run time, sums in int32.

Weights are symmetric, with a scale for each output channel. Activations are uint8, with one of two kinds of scale:

- per token: a scale for each row. The result for an image does not depend on the others in its batch.
- per tensor: one scale and one zero point for the whole batch (ONNX's DynamicQuantizeLinear), with fewer passes over
  the activations. The other images of a batch change them.

MatMulIntegerToFloat (com.microsoft) multiplies, and applies the weights' scales and a bias in one pass. It accepts
only one scale for all activations, so the rows' scales are applied after it, and the bias after that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from vitriton_export._graph.ir import MICROSOFT, Array, array, constant, dims, graph_of, insert, replace, value
from vitriton_export._graph.linear import Linear, linear_at
from vitriton_export._graph.patches import PatchEmbedding, patch_embedding

_OPSET = 21  # the first with QuantizeLinear by blocks
_LEVELS = 127  # on each side of zero
_SMALLEST = np.float32(1e-30)  # the lower bound of a scale, so that a row of zeros stays one
# The zero point of activations that reach far above zero and only a little below: so many levels lie below zero.
_ONE_SIDED_ZERO_POINT = 32


@dataclass(frozen=True)
class _Quantized:
    """Quantized activations: x ≈ rows · scale · (values − zero_point).

    Attributes:
        values: the integers, (..., K) uint8.
        scale: the scale of all values, a scalar.
        zero_point: the zero point, a uint8 scalar.
        rows: the scale of each row, (..., 1) float32; None: 1.
    """

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    rows: ir.Value | None = None


def quantize(model: ir.Model, *, per_token: bool) -> int:
    """Quantizes the products of activations and constant weights, in place.

    Products with one row for each image (poolers, heads) are left as they are: they cost nothing.

    Args:
        model: the model in float32.
        per_token: whether each token gets a scale of its own, instead of one for the whole batch.

    Returns:
        The number of weights that are now int8; 0 if the graph has no such product.
    """
    found = layers(model)
    quantized: dict[ir.Value, _Quantized] = {}
    for layer in found:
        if layer.x not in quantized:  # the input of queries, keys and values is quantized once
            quantized[layer.x] = _quantized(
                layer.x, layer.weight.shape[0], _first_user(model, layer.x), per_token=per_token
            )
        replace(layer.node, _multiply(quantized[layer.x], layer))
    embeddings = [each for node in model.graph if (each := patch_embedding(node)) is not None] if found else []
    for embedding in embeddings:
        replace(embedding.node, _embed(embedding))
    if found:
        model.graph.opset_imports[MICROSOFT] = 1
        model.graph.opset_imports[""] = max(_OPSET, model.graph.opset_imports[""])
    passes.RemoveUnusedNodesPass()(model)
    return sum(weight.size for weight in (*(layer.weight for layer in found), *(each.weight for each in embeddings)))


def layers(model: ir.Model) -> list[Linear]:
    """Returns the layers that `quantize` quantizes, in the graph's order."""
    return [layer for node in model.graph if (layer := linear_at(node)) is not None and _pays(layer)]


def _pays(layer: Linear) -> bool:
    shape, batch = dims(layer.x), graph_of(layer.product).inputs[0].shape
    one_row = shape is not None and len(shape) == 2 and batch is not None and shape[0] == batch[0]
    return layer.weight.dtype == np.float32 and not one_row


def _quantized(x: ir.Value, width: int, before: ir.Node, *, per_token: bool) -> _Quantized:
    """Quantizes `x`, with rows of this width, to uint8: with a scale for each row, or with one scale for all."""
    if not per_token:
        node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
        graph_of(before).insert_before(before, node)
        return _Quantized(*node.outputs)
    # Maximum and minimum take two reads and no write, where Abs would write. No row has the scale 0.
    graph, last = graph_of(before), constant(graph_of(before), [-1])
    largest, least = insert(before, "ReduceMax", [x, last], keepdims=1), _least(x)
    if least is None:
        zero_point, levels = _LEVELS + 1, _LEVELS
        lowest = insert(before, "Neg", [insert(before, "ReduceMin", [x, last], keepdims=1)])
        bound = insert(before, "Max", [largest, lowest, constant(graph, _SMALLEST)])
    else:
        zero_point = _ONE_SIDED_ZERO_POINT if least else 0
        levels = 255 - zero_point
        floor = np.float32(-least * levels / zero_point) if least else _SMALLEST
        bound = insert(before, "Max", [largest, constant(graph, floor)])
    zero = constant(graph, np.uint8(zero_point))
    scale = insert(before, "Mul", [bound, constant(graph, np.float32(1 / levels))])
    # Each row is one block: for row scales by `axis` alone, ONNX Runtime's CPU kernel uses only one core.
    zeros = insert(before, "Expand", [zero, insert(before, "Shape", [scale])])
    values = insert(before, "QuantizeLinear", [x, scale, zeros], axis=-1, block_size=width)
    return _Quantized(values, constant(graph, np.float32(1)), zero, scale)


def _least(x: ir.Value) -> float | None:
    """Returns the lowest value of an activation function, where it is close to 0; None where unknown."""
    node = x.producer()
    if node is None or node.op_type not in ("Gelu", "Mul", "Relu"):
        return None
    if node.op_type != "Mul":
        return {"Gelu": -0.1701, "Relu": 0.0}[node.op_type]
    for place in (0, 1):  # x · sigmoid(x) or x · sigmoid(1.702 x): Swish and QuickGelu, as exported
        gate, passed = value(node, place).producer(), value(node, 1 - place)
        if gate is None or gate.op_type != "Sigmoid":
            continue
        factor = _factor(value(gate, 0), passed)
        if factor is not None and factor > 0:
            return -0.2785 / factor
    return None


def _factor(scaled: ir.Value, x: ir.Value) -> float | None:
    """Returns the constant c of `scaled` = c · `x`; None if `scaled` is something else."""
    if scaled is x:
        return 1.0
    node = scaled.producer()
    if node is None or node.op_type != "Mul" or x not in node.inputs:
        return None
    factor = array(node.inputs[1 - list(node.inputs).index(x)])
    return float(factor.item()) if factor is not None and factor.size == 1 else None


def _multiply(x: _Quantized, layer: Linear) -> ir.Value:
    """Returns the layer's result in float32."""
    if x.rows is None:
        return _product(x, layer.weight, layer.bias, layer.node)
    before, bias = layer.node, layer.bias
    result = insert(before, "Mul", [_product(x, layer.weight, None, before), x.rows])
    if bias is None:
        return result
    # A row, not a vector: ONNX Runtime would fuse a vector and the Gelu after it to BiasGelu, which is slower.
    return insert(before, "Add", [result, constant(graph_of(before), bias[np.newaxis])])


def _embed(found: PatchEmbedding) -> ir.Value:
    """Multiplies the pixels, which are integers already: every batch has one scale, and only weights are rounded."""
    before, graph = found.node, graph_of(found.node)
    one, zero_point = constant(graph, np.float32(1)), constant(graph, np.uint8(128))
    return _product(_Quantized(found.patches(before), one, zero_point), found.weight, found.bias, before)


def _product(x: _Quantized, weight: Array, bias: Array | None, before: ir.Node) -> ir.Value:
    """Returns (values − zero_point) · weight, scaled, plus the bias, in float32."""
    graph = graph_of(before)
    scales = np.maximum(np.abs(weight).max(axis=0) / _LEVELS, _SMALLEST).astype(np.float32)
    levels = np.clip(np.round(weight / scales), -_LEVELS, _LEVELS).astype(np.int8)
    inputs: list[ir.Value | None] = [x.values, constant(graph, levels), x.scale, constant(graph, scales), x.zero_point]
    if bias is not None:
        inputs += [None, constant(graph, bias)]
    return insert(before, "MatMulIntegerToFloat", inputs, MICROSOFT)


def _first_user(model: ir.Model, x: ir.Value) -> ir.Node:
    """Returns the first node that reads `x`, in the graph's order: `x` is quantized before it."""
    users = set(x.consumers())
    return next(node for node in model.graph if node in users)
