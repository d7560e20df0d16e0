"""Patch embeddings as products of the uint8 pixels themselves: no activation is rounded or scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitriton_export._graph.ir import Array, array, constant, dims, graph_of, insert, value


@dataclass(frozen=True)
class PatchEmbedding:
    """A patch embedding: patches · weight + bias, for the patches' pixels minus 128.

    Attributes:
        pixels: the pixels, (B, H, W, 3) uint8.
        grid: the numbers of rows and columns of patches.
        size: the height and width of a patch, in pixels.
        weight: the weight, (size · size · 3, D) float32, with the normalization folded in.
        bias: the bias, (D,) float32, with the normalization folded in.
        node: the node whose output is the embedding, (B, patches, D) float32.
    """

    pixels: ir.Value
    grid: tuple[int, int]
    size: int
    weight: Array
    bias: Array
    node: ir.Node

    def patches(self, before: ir.Node) -> ir.Value:
        """Inserts nodes that cut the pixels into patches, (B, patches, size · size · 3) uint8."""
        graph, size, (rows, columns) = graph_of(before), self.size, self.grid
        tiles = insert(before, "Reshape", [self.pixels, constant(graph, [-1, rows, size, columns, size * 3])])
        ordered = insert(before, "Transpose", [tiles], perm=[0, 1, 3, 2, 4])
        return insert(before, "Reshape", [ordered, constant(graph, [-1, rows * columns, size * size * 3])])


def patch_embedding(conv: ir.Node) -> PatchEmbedding | None:
    """Returns the patch embedding that a Conv computes; None for another node."""
    last = _only(_only(conv, "Reshape"), "Transpose")
    if conv.op_type != "Conv" or last is None or list(last.attributes["perm"].as_ints()) != [0, 2, 1]:
        return None
    kernel, bias = array(conv.inputs[1]), array(conv.inputs[2]) if len(conv.inputs) > 2 else np.float32(0)
    chain = _chain(value(conv, 0), ("Add", "Mul", "Cast", "Transpose"))
    if kernel is None or kernel.dtype != np.float32 or bias is None or chain is None:
        return None
    add, mul, _, transpose = chain
    offset, scale, pixels = array(add.inputs[1]), array(mul.inputs[1]), value(transpose, 0)
    grid = _grid(conv, pixels, kernel.shape)
    if offset is None or scale is None or grid is None:
        return None
    scaled = kernel.astype(np.float64) * scale
    bias = bias + (kernel * offset.astype(np.float64) + 128 * scaled).sum(axis=(1, 2, 3))
    weight = scaled.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    return PatchEmbedding(pixels, grid, kernel.shape[-1], weight.astype(np.float32), bias.astype(np.float32), last)


def _only(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """Returns the only reader of a node's output, if it has this type."""
    users = [] if node is None or node.outputs[0].is_graph_output() else node.outputs[0].consumers()
    return users[0] if len(users) == 1 and users[0].op_type == op_type else None


def _chain(end: ir.Value, op_types: tuple[str, ...]) -> list[ir.Node] | None:
    """Returns the nodes before a value along their first inputs, the last one first, if they have these types."""
    nodes = []
    for op_type in op_types:
        node = end.producer()
        if node is None or node.op_type != op_type:
            return None
        nodes.append(node)
        end = value(node, 0)
    return nodes


def _grid(conv: ir.Node, pixels: ir.Value, kernel: tuple[int, ...]) -> tuple[int, int] | None:
    """Returns the rows and columns of a Conv's square patches, if they lie side by side and cover all pixels."""
    settings, size, shape = {name: given.value for name, given in conv.attributes.items()}, kernel[-1], dims(pixels)
    if pixels.dtype != ir.DataType.UINT8 or shape is None or kernel[1:] != (3, size, size):
        return None
    plain = not any(settings.get("pads", ())) and set(settings.get("dilations", ())) <= {1}
    if not plain or list(settings.get("strides", ())) != [size, size] or settings.get("group", 1) != 1:
        return None
    _, height, width, _ = shape
    if not isinstance(height, int) or not isinstance(width, int) or height % size or width % size:
        return None
    return height // size, width // size
