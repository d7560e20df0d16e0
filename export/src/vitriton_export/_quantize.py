"""int8 by rewriting the graph: constant weights in int8, activations quantised as they come, sums in int32.

Weights: symmetric, with a scale for each output channel. Activations: uint8, by one of two ways to find their scale.

- per token: a scale for each row, x ≈ s · (q − 128) with s = max|x| / 127. What becomes of an image does not depend on
  the others in its batch.
- per tensor: one scale and one zero point for the whole batch (ONNX's DynamicQuantizeLinear), with fewer passes over
  the activations. The other images of a batch move them.

MatMulIntegerToFloat (com.microsoft) multiplies and applies the weights' scales in one pass. It takes one scale for all
activations alone, so the tokens' scales are applied after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from vitriton_export._ir import MICROSOFT, Array, array, constant, dims, graph_of, insert, replace, value

_ZERO_POINT = np.uint8(128)
_LEVELS = 127  # on each side of zero
_SMALLEST = np.float32(1e-30)  # of a scale: a row of zeros stays one


@dataclass(frozen=True)
class _Quantized:
    """Activations as integers: x ≈ scale · (values − zero_point)."""

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value


@dataclass(frozen=True)
class _Product:
    """x · weight + bias.

    Attributes:
        x: (..., K) float32.
        weight: (K, N) float32.
        bias: (N,) float32, or None.
        node: whose output is the sum.
    """

    x: ir.Value
    weight: Array
    bias: ir.Value | None
    node: ir.Node


def quantize(model: ir.Model, *, per_token: bool) -> int:
    """Replaces the products of activations and constant weights, in place.

    Products of one row an image (poolers, heads) are left as they are: they cost nothing.

    Args:
        model: in float32.
        per_token: whether each token gets a scale of its own, instead of one for the whole batch.

    Returns:
        How many weights are in int8 now; 0 if the graph has no such product.
    """
    products = [product for node in model.graph if (product := _product(node)) is not None]
    quantized: dict[ir.Value, _Quantized] = {}
    activations, multiply = (_by_token, _multiply_by_token) if per_token else (_by_tensor, _multiply_by_tensor)
    for product in products:
        if product.x not in quantized:  # what queries, keys and values are made of is quantised once
            quantized[product.x] = activations(product.x, _first_user(model, product.x))
        replace(product.node, multiply(quantized[product.x], product))
    if products:
        model.graph.opset_imports[MICROSOFT] = 1
    passes.RemoveUnusedNodesPass()(model)
    return sum(product.weight.size for product in products)


def _product(node: ir.Node) -> _Product | None:
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    x, weight, shape = value(node, 0), array(node.inputs[1]), dims(value(node, 0))
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or shape is None or len(shape) < 2:
        return None
    batch = graph_of(node).inputs[0].shape
    if len(shape) == 2 and batch is not None and shape[0] == batch[0]:
        return None
    return _of_gemm(node, x, weight) if node.op_type == "Gemm" else _of_matmul(node, x, weight)


def _of_matmul(node: ir.Node, x: ir.Value, weight: Array) -> _Product:
    """With the bias, if an Add of one follows."""
    users = node.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type == "Add" and not node.outputs[0].is_graph_output():
        for bias in users[0].inputs:
            if bias is not None and array(bias) is not None and dims(bias) == weight.shape[1:]:
                return _Product(x, weight, bias, users[0])
    return _Product(x, weight, None, node)


def _of_gemm(node: ir.Node, x: ir.Value, weight: Array) -> _Product | None:
    """As torch's Linear is written where it gets rows: nothing scaled, only the weight transposed."""
    settings = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = settings.get("alpha", 1) == 1 and settings.get("beta", 1) == 1 and not settings.get("transA", 0)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if not plain or (bias is not None and len(dims(bias) or ()) != 1):
        return None
    return _Product(x, weight.T if settings.get("transB", 0) else weight, bias, node)


def _by_token(x: ir.Value, before: ir.Node) -> _Quantized:
    """Maximum and minimum take two reads and no write, where Abs would write; the scale is 0 for no row."""
    graph, last = graph_of(before), constant(graph_of(before), [-1])
    highest = insert(before, "ReduceMax", [x, last], keepdims=1)
    lowest = insert(before, "Neg", [insert(before, "ReduceMin", [x, last], keepdims=1)])
    largest = insert(before, "Max", [highest, lowest, constant(graph, _SMALLEST)])
    # QuantizeLinear has scales by row as well, and would save the product; but ONNX Runtime's CPU kernel then works on
    # one core, which costs more from three cores on.
    levels = insert(before, "Mul", [x, insert(before, "Div", [constant(graph, np.float32(_LEVELS)), largest])])
    zero_point = constant(graph, _ZERO_POINT)
    values = insert(before, "QuantizeLinear", [levels, constant(graph, np.float32(1)), zero_point])
    return _Quantized(values, insert(before, "Mul", [largest, constant(graph, np.float32(1 / _LEVELS))]), zero_point)


def _by_tensor(x: ir.Value, before: ir.Node) -> _Quantized:
    node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
    graph_of(before).insert_before(before, node)
    return _Quantized(*node.outputs)


def _multiply_by_token(x: _Quantized, product: _Product) -> ir.Value:
    one = constant(graph_of(product.node), np.float32(1))
    scaled = insert(product.node, "Mul", [_multiply(x, one, None, product), x.scale])
    return scaled if product.bias is None else insert(product.node, "Add", [scaled, product.bias])


def _multiply_by_tensor(x: _Quantized, product: _Product) -> ir.Value:
    return _multiply(x, x.scale, product.bias, product)


def _multiply(x: _Quantized, scale: ir.Value, bias: ir.Value | None, product: _Product) -> ir.Value:
    """The product in float32; without the scale of `x` unless `scale` is that."""
    graph = graph_of(product.node)
    scales = np.maximum(np.abs(product.weight).max(axis=0) / _LEVELS, _SMALLEST).astype(np.float32)
    weight = np.clip(np.round(product.weight / scales), -_LEVELS, _LEVELS).astype(np.int8)
    inputs = [x.values, constant(graph, weight), scale, constant(graph, scales), x.zero_point]
    return insert(
        product.node,
        "MatMulIntegerToFloat",
        inputs if bias is None else [*inputs, constant(graph, np.zeros_like(scales, np.int8)), bias],
        MICROSOFT,
    )


def _first_user(model: ir.Model, x: ir.Value) -> ir.Node:
    """The first node that reads `x`, in the graph's order: what `x` is quantised before."""
    users = set(x.consumers())
    return next(node for node in model.graph if node in users)
