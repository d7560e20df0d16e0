"""Linear layers in a graph: products with constant weights, and an optional bias."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from vitriton_export._graph.ir import Array, array, constant, dims, graph_of, replace, value


@dataclass(frozen=True)
class Linear:
    """A linear layer: x · weight + bias.

    Attributes:
        x: the input, (..., K).
        weight: the weight, (K, N).
        bias: the bias, (N,), or None.
        product: the MatMul or Gemm node.
        node: the node whose output is the sum: the Add after the product, or the product itself.
    """

    x: ir.Value
    weight: Array
    bias: Array | None
    product: ir.Node
    node: ir.Node

    @property
    def result(self) -> ir.Value:
        """The output, (..., N)."""
        return self.node.outputs[0]

    def change(self, weight: Array, bias: Array | None) -> None:
        """Sets another weight or bias, cast to its own dtype; a bias only if it has one. Not for a Gemm."""
        self.product.replace_input_with(1, self._constant(weight))
        if self.bias is not None and bias is None:
            replace(self.node, self.product.outputs[0])
        elif bias is not None:
            self.node.replace_input_with(_bias_place(self.node), self._constant(bias))

    def _constant(self, content: Array) -> ir.Value:
        return constant(graph_of(self.product), content.astype(self.weight.dtype, copy=False))


def linear_at(node: ir.Node) -> Linear | None:
    """Returns the linear layer of a MatMul or Gemm; None for another node."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    x, weight, shape = value(node, 0), array(node.inputs[1]), dims(value(node, 0))
    if weight is None or weight.ndim != 2 or shape is None or len(shape) < 2:
        return None
    return _of_gemm(node, x, weight) if node.op_type == "Gemm" else _of_matmul(node, x, weight)


def linear_behind(x: ir.Value) -> Linear | None:
    """Returns the linear layer of a MatMul that is the only reader of a value."""
    users = x.consumers()
    return linear_at(users[0]) if len(users) == 1 and users[0].op_type == "MatMul" else None


def linear_before(result: ir.Value) -> Linear | None:
    """Returns the linear layer of a MatMul whose result has only one reader."""
    if len(result.consumers()) != 1 or result.is_graph_output():
        return None
    node = result.producer()
    if node is not None and node.op_type == "Add":
        product = value(node, 1 - place).producer() if (place := _bias_place(node)) >= 0 else None
    else:
        product = node
    layer = linear_at(product) if product is not None and product.op_type == "MatMul" else None
    return layer if layer is not None and layer.node is node else None


def _of_matmul(node: ir.Node, x: ir.Value, weight: Array) -> Linear:
    users = node.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type == "Add" and not node.outputs[0].is_graph_output():
        place = _bias_place(users[0])
        bias = array(users[0].inputs[place]) if place >= 0 else None
        if bias is not None and bias.shape == weight.shape[1:]:
            return Linear(x, weight, bias, node, users[0])
    return Linear(x, weight, None, node, node)


def _of_gemm(node: ir.Node, x: ir.Value, weight: Array) -> Linear | None:
    """Returns a Gemm as torch exports Linear for rows: nothing is scaled, only the weight is transposed."""
    settings = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = settings.get("alpha", 1) == 1 and settings.get("beta", 1) == 1 and not settings.get("transA", 0)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = array(given)
    if not plain or (given is not None and (bias is None or bias.ndim != 1)):
        return None
    return Linear(x, weight.T if settings.get("transB", 0) else weight, bias, node, node)


def _bias_place(node: ir.Node) -> int:
    """Returns the index of the input of an Add that is a constant vector; -1 if none is."""
    arrays = [array(given) for given in node.inputs]
    return next((place for place, content in enumerate(arrays) if content is not None and content.ndim == 1), -1)
