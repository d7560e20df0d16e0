"""Rewrites of an exported graph that save work, and change nothing but the rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from vitriton_export._graph.ir import array, constant, dims, graph_of, insert, replace, value
from vitriton_export._graph.linear import linear_before, linear_behind

# Input of a node → its axis that corresponds to the given axis of the output. Inputs without that axis, and those
# that broadcast along it, are left out.
Axes = dict[int, int]


def optimize(model: ir.Model, *, for_gpu: bool = False) -> None:
    """Removes work that the outputs do not need, in place.

    Args:
        model: the graph.
        for_gpu: whether to leave out what helps a CPU alone.
    """
    drop_reshapes(model)
    fold_scales(model)
    fold_attention_biases(model)
    narrow(model)
    if not for_gpu:
        keep_norms(model)


def drop_reshapes(model: ir.Model) -> None:
    """Merges chains of Reshape, and removes those that restore the original shape."""
    for node in model.graph:
        if node.op_type != "Reshape":
            continue
        before, sizes = value(node, 0).producer(), array(node.inputs[1])
        copies = sizes is None or 0 in sizes  # 0 copies a size of the input
        follows = before is not None and before.op_type == "Reshape"
        if before is not None and follows and (not copies or _same_dims(value(before, 0), node.outputs[0])):
            node.replace_input_with(0, value(before, 0))
        source, result = value(node, 0), node.outputs[0]
        if _same_dims(source, result) and not result.is_graph_output():
            result.replace_all_uses_with(source)
    passes.RemoveUnusedNodesPass()(model)


def _same_dims(one: ir.Value, other: ir.Value) -> bool:
    return dims(one) is not None and dims(one) == dims(other)


def keep_norms(model: ir.Model) -> None:
    """Adds residuals that only a LayerNormalization reads by Sum, in place.

    ONNX Runtime fuses Add and LayerNormalization to SkipLayerNormalization, whose CPU kernel is several times slower
    than the two.
    """
    for node in list(model.graph):
        if node.op_type != "LayerNormalization":
            continue
        source = value(node, 0)
        adds = source.producer()
        alone = len(source.consumers()) == 1 and not source.is_graph_output()
        if adds is not None and adds.op_type == "Add" and alone:
            replace(adds, insert(adds, "Sum", adds.inputs))


def fold_scales(model: ir.Model) -> None:
    """Folds a factor for each channel after a linear layer (LayerScale) into its weight and bias, in place."""
    for node in list(model.graph):
        if node.op_type != "Mul":
            continue
        for place, given in enumerate(node.inputs):
            factors, layer = array(given), linear_before(value(node, 1 - place))
            if factors is None or layer is None or factors.shape != layer.weight.shape[1:]:
                continue
            layer.change(layer.weight * factors, None if layer.bias is None else layer.bias * factors)
            replace(node, value(node, 1 - place))
            break
    passes.RemoveUnusedNodesPass()(model)


def fold_attention_biases(model: ir.Model) -> None:
    """Removes the biases of keys, and moves those of values into the layer after a fused attention, in place.

    A key's bias adds the same number to all products of a query, which softmax ignores. The weights of the values add
    up to 1, so the result contains their bias once, and the next layer turns it into a bias of its own.
    """
    for node in list(model.graph):
        if node.op_type != "MultiHeadAttention":
            continue
        keys = linear_before(value(node, 1))
        if keys is not None and keys.bias is not None:
            keys.change(keys.weight, None)
        values, projection = linear_before(value(node, 2)), linear_behind(node.outputs[0])
        if values is None or values.bias is None or projection is None or projection.bias is None:
            continue
        moved = values.bias.astype(np.float64) @ projection.weight.astype(np.float64)
        projection.change(projection.weight, projection.bias + moved)
        values.change(values.weight, None)
    passes.RemoveUnusedNodesPass()(model)


def narrow(model: ir.Model) -> None:
    """Computes only one token where only one is used, in place: in the last block, with CLS pooling.

    The node that takes the token, `tokens[:, 0]`, is moved up past each op that treats tokens one by one, as long as
    nothing else needs the other tokens. It stops at the queries of the attention, whose keys and values need all
    tokens, and at the input of the block.
    """
    waiting = [_keep_axis(node) for node in model.graph if _takes_one(node)]
    while waiting:
        gather = waiting.pop()
        producer = value(gather, 0).producer() if gather.graph is not None else None
        if producer is None or not all(_same(gather, user) for user in _users(producer)):
            continue
        axes = _AXES.get(producer.op_type, _none)(producer, gather.attributes["axis"].as_int())
        if axes is not None:
            waiting += _move_up(gather, producer, axes)
    passes.RemoveUnusedNodesPass()(model)
    model.graph.sort()


def _takes_one(node: ir.Node) -> bool:
    """Whether a node takes one index of one axis, from a value with at least two others."""
    if node.op_type != "Gather":
        return False
    index, shape = array(node.inputs[1]), dims(value(node, 0))
    return index is not None and index.ndim == 0 and shape is not None and len(shape) > 2


def _keep_axis(node: ir.Node) -> ir.Node:
    """Replaces value[:, i] with value[:, [i]] and a Squeeze; returns the former."""
    source, index = value(node, 0), array(node.inputs[1])
    assert index is not None  # _takes_one has checked it
    axis = node.attributes["axis"].as_int() % len(dims(source) or ())
    gather = _gather(source, axis, constant(graph_of(node), index.reshape(1)), before=node)
    replace(node, insert(node, "Squeeze", [gather.outputs[0], constant(graph_of(node), [axis])]))
    return gather


def _gather(source: ir.Value, axis: int, index: ir.Value, *, before: ir.Node) -> ir.Node:
    """Returns the node that takes one index and keeps the axis: an existing one, or a new one."""
    for user in source.consumers():
        if user.op_type == "Gather" and user.inputs[1] is index and user.attributes["axis"].as_int() == axis:
            return user
    taken = insert(before, "Gather", [source, index], axis=axis)
    taken.type, taken.shape = source.type, _one(source, axis)
    gather = taken.producer()
    assert gather is not None
    return gather


def _same(gather: ir.Node, other: ir.Node | None) -> bool:
    """Whether `other` takes the same index of the same axis."""
    return (
        other is not None
        and other.op_type == "Gather"
        and other.inputs[1] is gather.inputs[1]
        and other.attributes["axis"].as_int() == gather.attributes["axis"].as_int()
    )


def _users(node: ir.Node) -> Iterator[ir.Node | None]:
    """Yields the readers of a node's outputs; None stands for the graph's own outputs."""
    for output in node.outputs:
        yield from output.consumers()
        if output.is_graph_output():
            yield None


def _move_up(gather: ir.Node, producer: ir.Node, axes: Axes) -> list[ir.Node]:
    """Moves the index to the inputs of `producer`; returns the nodes that take it there, to move up further."""
    axis, index = gather.attributes["axis"].as_int(), value(gather, 1)
    gathers = []
    for place, input_axis in axes.items():
        gathers.append(_gather(value(producer, place), input_axis, index, before=producer))
        producer.replace_input_with(place, gathers[-1].outputs[0])
    if producer.op_type == "Reshape":
        sizes = array(value(producer, 1))
        assert sizes is not None  # _reshape has checked it
        sizes = sizes.copy()
        sizes[axis] = 1
        producer.replace_input_with(1, constant(graph_of(producer), sizes))
    for output in producer.outputs:
        users = output.consumers()
        output.shape = _one(output, axis)
        for user in users:
            replace(user, output)
    return gathers


def _one(source: ir.Value, axis: int) -> ir.Shape | None:
    """Returns the shape of a value with one index of an axis left."""
    if source.shape is None:
        return None
    sizes = list(source.shape)
    sizes[axis] = 1
    return ir.Shape(sizes)


def _none(node: ir.Node, axis: int) -> Axes | None:
    """Handles ops that are not known."""


def _elementwise(node: ir.Node, axis: int) -> Axes | None:
    """Handles ops whose elements depend on those at the same place in the inputs, which broadcast."""
    output, axes = dims(node.outputs[0]), {}
    for place, source in enumerate(node.inputs):
        shape = dims(source) if source is not None else ()
        if output is None or shape is None:
            return None
        input_axis = axis - len(output) + len(shape)
        if input_axis >= 0 and shape[input_axis] != 1:
            axes[place] = input_axis
    return axes


def _along_axis(node: ir.Node, axis: int) -> Axes | None:
    """Handles ops along one axis (LayerNormalization: from it to the last) that treat other indices one by one."""
    shape = dims(value(node, 0))
    along = node.attributes.get("axis", ir.AttrInt64("axis", -1)).as_int()
    if shape is None or not _precedes(axis, along % len(shape), node.op_type):
        return None
    return {0: axis}


def _precedes(axis: int, along: int, op_type: str) -> bool:
    return axis < along if op_type == "LayerNormalization" else axis != along


def _matmul(node: ir.Node, axis: int) -> Axes | None:
    """Handles MatMul: a row of the product depends on the same row of the left factor."""
    left, right = dims(value(node, 0)), dims(value(node, 1))
    if left is None or right is None or len(left) < max(len(right), 2) or axis != len(left) - 2:
        return None
    return {0: axis}


def _attention(node: ir.Node, axis: int) -> Axes | None:
    """Handles MultiHeadAttention (com.microsoft): a token depends on its own query, and on all keys and values."""
    return {0: 1} if axis == 1 else None


def _transpose(node: ir.Node, axis: int) -> Axes | None:
    return {0: node.attributes["perm"].as_ints()[axis]}


def _reshape(node: ir.Node, axis: int) -> Axes | None:
    """Handles Reshape that keeps the axes up to this one, and changes only later ones."""
    before, after = dims(value(node, 0)), dims(node.outputs[0])
    if before is None or after is None or before[: axis + 1] != after[: axis + 1] or array(node.inputs[1]) is None:
        return None
    return {0: axis}


_ELEMENTWISE = (
    "Abs Add Cast Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log Max Min Mish Mul Neg Pow "
    "QuickGelu Reciprocal Relu Sigmoid Softplus Sqrt Sub Tanh Where"
)
_AXES: dict[str, Callable[[ir.Node, int], Axes | None]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(("LayerNormalization", "LogSoftmax", "Softmax", "Split"), _along_axis),
    "MatMul": _matmul,
    "MultiHeadAttention": _attention,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
