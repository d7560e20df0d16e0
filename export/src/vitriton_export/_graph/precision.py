"""Brings a graph to the requested precision, and warns of unsuitable choices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vitriton_export._errors import ExportError
from vitriton_export._graph import quantize, rewrites, smooth
from vitriton_export._options import Optimize, Precision
from vitriton_export._serving import Device

_FP16_ON_CPU = (
    "fp16 is for GPUs: ONNX Runtime computes it on a CPU in float32, with conversions around every op, so that it is "
    "slower there than fp32; use fp32, or int8"
)
_INT8_ON_GPU = (
    "int8 is for CPUs: ONNX Runtime has no such products for a GPU, and runs that part of the graph on the CPU, with "
    "copies in between; use fp16"
)


_SATURATES = (
    "{precision} loses accuracy on this CPU: without VNNI it adds pairs of products in 16 bits, which saturate. If "
    "another machine serves, run `vitriton verify` there, which measures it again; otherwise, use --precision fp32"
)


def finish(
    graph: ir.Model,
    precision: Precision,
    optimize: Optimize,
    folder: Path | None = None,
    examples: Sequence[smooth.Feed] = (),
) -> str | None:
    """Rewrites a graph with a single output, in place.

    Args:
        graph: the graph as exported, at the precision of its weights.
        precision: the target precision; the export itself produces float16.
        optimize: the rewriting to apply.
        folder: the folder for temporary files; None: the system's.
        examples: inputs of the graph, with which int8 is smoothed; none: it is not.

    Returns:
        A warning for the user, or None.

    Raises:
        ExportError: the graph has nothing that int8 could speed up.
    """
    if optimize == "default":
        rewrites.optimize(graph, for_gpu=precision == "fp16")
    if precision not in ("int8", "int8-fast"):
        return None
    if examples:
        smooth.smooth(graph, examples, folder)
    total = sum(
        weight.const_value.size for weight in graph.graph.initializers.values() if weight.const_value is not None
    )
    share = quantize.quantize(graph, per_token=precision == "int8") / total
    if share == 0:
        raise ExportError(
            f"{precision} speeds up products of matrices, and this model has none (it consists of convolutions); use "
            "--precision fp32, or fp16 on a GPU"
        )
    return f"{precision} covers {share:.0%} of this model's weights; the rest stays float32" if share < 0.5 else None


def device_warning(precision: Precision, device: Device, *, has_gpu: bool) -> str | None:
    """Says why a precision makes no sense on a device; None where it does.

    Args:
        precision: the precision of the export.
        device: the device that will serve the export; "auto" is a GPU where there is one.
        has_gpu: whether this machine has a GPU; for "auto", it stands for the machine that will serve.
    """
    on_gpu = has_gpu if device == "auto" else device == "gpu"
    if precision == "fp16" and not on_gpu:
        return _FP16_ON_CPU
    if not precision.startswith("int8"):
        return None
    if on_gpu:
        return _INT8_ON_GPU
    return None if adds_products_exactly() else _SATURATES.format(precision=precision)


@functools.cache
def adds_products_exactly() -> bool:
    """Whether ONNX Runtime's sums of uint8 × int8 products are exact on this CPU.

    Source: ONNX Runtime's documentation of quantization, "When and why do I need to try U8U8?".
    """
    import onnxruntime as ort

    left, right = np.full((1, 64), 255, np.uint8), np.full((64, 64), 127, np.int8)
    given = ir.val("left", ir.DataType.UINT8, left.shape)
    weights = ir.Value(name="right", const_value=ir.tensor(right, name="right"))
    node = ir.Node("", "MatMulInteger", [given, weights])
    node.outputs[0].name, node.outputs[0].dtype = "product", ir.DataType.INT32
    graph = ir.Graph(
        [given], node.outputs, nodes=[node], initializers=[weights], opset_imports={"": 18}, name="product"
    )
    model = ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString()
    product = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"left": left})[0]
    return bool((product == left.astype(int) @ right.astype(int)).all())


def has_gpu() -> bool:
    """Whether NVIDIA's driver shows a GPU on this machine."""
    return Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()  # the latter under WSL
