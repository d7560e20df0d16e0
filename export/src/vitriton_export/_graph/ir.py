"""Helpers for rewriting graphs with onnx_ir: required inputs, constants by content, insertion, replacement."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own ops

Array = npt.NDArray[Any]
Dims = tuple[int | ir.SymbolicDim, ...]


def value(node: ir.Node, place: int) -> ir.Value:
    """Returns an input that a node must have."""
    found = node.inputs[place]
    if found is None:
        raise ValueError(f"{node.op_type} {node.name} has no input {place}")
    return found


def graph_of(node: ir.Node) -> ir.Graph:
    """Returns the graph that a node belongs to."""
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"{node.op_type} {node.name} is in no graph")
    return node.graph


def array(given: ir.Value | None) -> Array | None:
    """Returns the content of a constant; None for another value, or none."""
    tensor = None if given is None else ir.convenience.get_const_tensor(given)
    return None if tensor is None else tensor.numpy()


def dims(given: ir.Value) -> Dims | None:
    """Returns the sizes of a value: numbers, or names such as the batch's; None if one is unknown."""
    sizes = () if given.shape is None else tuple(given.shape)
    named = all(isinstance(size, int) or size.value is not None for size in sizes)
    return sizes if given.shape is not None and named else None


def constant(graph: ir.Graph, content: npt.ArrayLike) -> ir.Value:
    """Returns an initializer with this content; the same one for the same content."""
    data = np.asarray(content)
    digest = hashlib.sha256(f"{data.dtype}{data.shape}".encode() + data.tobytes()).hexdigest()[:16]
    name = f"constant_{digest}"
    if name not in graph.initializers:
        tensor = ir.tensor(data, name=name)
        initializer = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype))
        initializer.const_value = tensor
        graph.register_initializer(initializer)
    return graph.initializers[name]


def insert(
    before: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], domain: str = "", **attributes: Any
) -> ir.Value:
    """Puts a node in front of another one; returns its output."""
    node = ir.node(op_type, inputs, attributes, domain=domain)
    graph_of(before).insert_before(before, node)
    return node.outputs[0]


def replace(node: ir.Node, by: ir.Value) -> None:
    """Replaces a node's only output by another value for all its readers, and removes the node.

    An output of the graph keeps its name.
    """
    result = node.outputs[0]
    by.type, by.shape = result.type, result.shape
    if result.is_graph_output():
        by.name, result.name = result.name, None
    result.replace_all_uses_with(by, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)
