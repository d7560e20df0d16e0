"""Torch module → ONNX graphs that every Triton since 24.x loads, one graph for each output."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from torch import nn
from vitriton._repository.names import OUTPUT

from vitriton_export._errors import ExportError, one_line

# ONNX Runtime 1.19, in the oldest supported Triton, reads opset 21 and IR 10.
OPSET = 20
MAX_IR_VERSION = 10
OUTPUTS = tuple(dict.fromkeys(OUTPUT.values()))


def to_onnx(module: nn.Module, inputs: Mapping[str, tuple[torch.Tensor, dict[int, str]]]) -> ir.Model:
    """Exports with both outputs: embedding, last_hidden_state.

    Args:
        module: the module to export; it takes the inputs in their order, and returns both outputs.
        inputs: an example of each input, and the names of its open axes.

    Raises:
        ExportError: torch cannot export it, or writes a newer format than Triton reads.
    """
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(example for example, _ in inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(OUTPUTS),
                dynamic_shapes={name: axes for name, (_, axes) in inputs.items()},
                verbose=False,
            )
    except Exception as exc:
        raise ExportError(f"torch.onnx.export failed: {one_line(exc)}") from exc
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    model = program.model
    if (model.ir_version or 0) > MAX_IR_VERSION or model.opset_imports.get("", 0) > OPSET:
        raise ExportError(
            f"torch.onnx.export wrote opset {model.opset_imports.get('')} and IR {model.ir_version}; Triton reads up "
            f"to opset {OPSET} and IR {MAX_IR_VERSION}"
        )
    _free_names(model.graph)
    return model


def with_output(model: ir.Model, output: str) -> ir.Model:
    """Returns a copy of `model` with this output alone, without nodes and weights that only the others need.

    The tensors are shared with `model`, not copied.
    """
    single = model.clone()
    for index in reversed(range(len(single.graph.outputs))):
        if single.graph.outputs[index].name != output:
            single.graph.outputs.pop(index)
    if [value.name for value in single.graph.outputs] != [output]:
        raise ExportError(f"the exported graph has no output {output}")
    passes.RemoveUnusedNodesPass()(single)
    passes.RemoveUnusedOpsetsPass()(single)
    _free_names(single.graph)
    _strip(single)
    return single


def save(model: ir.Model, folder: Path, *, max_single_file_bytes: int) -> list[Path]:
    """Writes model.onnx, and model.onnx.data beside it where the weights are too large for one protobuf file.

    Returns:
        The paths of the files written.
    """
    path = folder / "model.onnx"
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size <= max_single_file_bytes:
        ir.save(model, path)
        return [path]
    ir.save(model, path, external_data=f"{path.name}.data")
    return [path, folder / f"{path.name}.data"]


def _free_names(graph: ir.Graph) -> None:
    """Renames values that have an input's or output's name: torch names values after functions such as `embedding`."""
    for name in (*OUTPUTS, *(str(value.name) for value in graph.inputs)):
        if (weight := graph.initializers.pop(name, None)) is not None:
            weight.name = f"{name}_weight"
            graph.register_initializer(weight)
    for value in (value for node in graph for value in node.outputs):
        if value.name in OUTPUTS and not value.is_graph_output():
            value.name = f"{value.name}_value"


def _strip(model: ir.Model) -> None:
    """Removes metadata: torch writes stack traces there, with absolute paths of this machine."""
    passes.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    for value in values:
        value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notices (a missing torchvision, deprecations in its own code) off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
