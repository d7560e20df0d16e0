"""Model repositories that load in a second: graphs made by hand, and python models of a few lines."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

TYPES = {
    "TYPE_BOOL": TensorProto.BOOL,
    "TYPE_UINT8": TensorProto.UINT8,
    "TYPE_UINT16": TensorProto.UINT16,
    "TYPE_UINT32": TensorProto.UINT32,
    "TYPE_UINT64": TensorProto.UINT64,
    "TYPE_INT8": TensorProto.INT8,
    "TYPE_INT16": TensorProto.INT16,
    "TYPE_INT32": TensorProto.INT32,
    "TYPE_INT64": TensorProto.INT64,
    "TYPE_FP16": TensorProto.FLOAT16,
    "TYPE_FP32": TensorProto.FLOAT,
    "TYPE_FP64": TensorProto.DOUBLE,
    "TYPE_STRING": TensorProto.STRING,
}

# (name, data type, dims without the batch axis)
Tensor = tuple[str, str, Sequence[int]]

PREPROCESS = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        files = request.inputs()[0].as_numpy().ravel()
        if any(not data.startswith(b"\\x89PNG") for data in files):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("no PNG", pb_utils.TritonError.INVALID_ARG))
        pixels = np.stack([np.full((4, 4, 3), len(data) % 256, np.uint8) for data in files])
        return pb_utils.InferenceResponse([pb_utils.Tensor("pixels", pixels)])
"""


def write_config(
    repository: Path,
    name: str,
    backend: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    batch: int = 8,
    more: str = "instance_group { kind: KIND_CPU count: 1 }",
) -> Path:
    """Writes a config.pbtxt and returns the version folder."""

    def tensor(role: str, entry: Tensor) -> str:
        return f'{role} {{ name: "{entry[0]}" data_type: {entry[1]} dims: {list(entry[2])} }}'

    lines = [f'name: "{name}"', f'backend: "{backend}"' if backend else 'platform: "ensemble"']
    lines += [f"max_batch_size: {batch}", *(tensor("input", entry) for entry in inputs)]
    lines += [*(tensor("output", entry) for entry in outputs), more]
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n")
    return folder


def write_graph(path: Path, graph: onnx.GraphProto) -> None:
    """Writes a graph as every target runtime can read it."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    onnx.save(model, path)


def value(name: str, data_type: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """A graph's input or output."""
    return helper.make_tensor_value_info(name, TYPES[data_type], shape)


def encoder_graph() -> onnx.GraphProto:
    """`pixels` (B, 4, 4, 3) uint8 → `embedding` (B, 3) float32, the mean, and `batch` (B, 1) int64, the B that ran."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Shape", ["pixels"], ["size"], start=0, end=1),
        helper.make_node("Concat", ["size", "one"], ["target"], axis=0),
        helper.make_node("Expand", ["size", "target"], ["batch"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    return helper.make_graph(
        nodes,
        "encoder",
        [value("pixels", "TYPE_UINT8", ["b", 4, 4, 3])],
        [value("embedding", "TYPE_FP32", ["b", 3]), value("batch", "TYPE_INT64", ["b", 1])],
        constants,
    )


ENCODER_INPUTS: Sequence[Tensor] = [("pixels", "TYPE_UINT8", [4, 4, 3])]
ENCODER_OUTPUTS: Sequence[Tensor] = [("embedding", "TYPE_FP32", [3]), ("batch", "TYPE_INT64", [1])]


def add_encoder(repository: Path, name: str, *, batch: int = 8, delay_s: float = 0.2, more: str = "") -> None:
    """The encoder, whose requests wait so long for others to share their batch."""
    group = "instance_group { kind: KIND_CPU count: 1 }" if "instance_group" not in more else ""
    waits = f"dynamic_batching {{ max_queue_delay_microseconds: {round(delay_s * 1e6)} }}"
    folder = write_config(
        repository, name, "onnxruntime", ENCODER_INPUTS, ENCODER_OUTPUTS, batch=batch, more=f"{group} {waits} {more}"
    )
    write_graph(folder / "model.onnx", encoder_graph())


def add_lookup(repository: Path, name: str) -> None:
    """`index` (B, 1) int64 → `row` (B, 1) float32 of a table of 4: another index is that request's fault."""
    more = "instance_group { kind: KIND_CPU } dynamic_batching { max_queue_delay_microseconds: 200000 }"
    tensors = [("index", "TYPE_INT64", [1])], [("row", "TYPE_FP32", [1])]
    folder = write_config(repository, name, "onnxruntime", *tensors, more=more)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        "lookup",
        [value("index", "TYPE_INT64", ["b", 1])],
        [value("row", "TYPE_FP32", ["b", 1])],
        [helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 10.0, 20.0, 30.0])],
    )
    write_graph(folder / "model.onnx", graph)


def add_echo(repository: Path, name: str, types: Mapping[str, int] = TYPES) -> None:
    """Every data type in and out unchanged: `in_TYPE_X` → `out_TYPE_X`, (B, 2)."""
    inputs = [(f"in_{kind}", kind, [2]) for kind in types]
    outputs = [(f"out_{kind}", kind, [2]) for kind in types]
    folder = write_config(repository, name, "onnxruntime", inputs, outputs)
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in types],
        "echo",
        [value(entry[0], entry[1], ["b", 2]) for entry in inputs],
        [value(entry[0], entry[1], ["b", 2]) for entry in outputs],
    )
    write_graph(folder / "model.onnx", graph)


def add_unbatched(repository: Path, name: str) -> None:
    """`x` (2, 3) float32 → `y` = -x, with no batch axis, a file not called model.onnx and external data."""
    tensors = [("x", "TYPE_FP32", [2, 3])], [("y", "TYPE_FP32", [2, 3])]
    more = 'instance_group { kind: KIND_CPU } default_model_filename: "graph.onnx"'
    folder = write_config(repository, name, "onnxruntime", *tensors, batch=0, more=more)
    factors = helper.make_tensor("factors", TensorProto.FLOAT, [2, 3], [-1.0] * 6)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factors"], ["y"])],
        "unbatched",
        [value("x", "TYPE_FP32", [2, 3])],
        [value("y", "TYPE_FP32", [2, 3])],
        [factors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, folder / "graph.onnx", save_as_external_data=True, location="graph.data", size_threshold=0)


def add_scalar(repository: Path, name: str) -> None:
    """`x` → `y` = -x, scalars, which Triton writes as [1]."""
    folder = write_config(
        repository, name, "onnxruntime", [("x", "TYPE_FP32", [1])], [("y", "TYPE_FP32", [1])], batch=0
    )
    node = helper.make_node("Neg", ["x"], ["y"])
    graph = helper.make_graph([node], "scalar", [value("x", "TYPE_FP32", [])], [value("y", "TYPE_FP32", [])])
    write_graph(folder / "model.onnx", graph)


def add_preprocess(repository: Path, name: str) -> None:
    """A python step: `image` → `pixels`."""
    folder = write_config(
        repository, name, "python", [("image", "TYPE_STRING", [1])], [("pixels", "TYPE_UINT8", [4, 4, 3])]
    )
    (folder / "model.py").write_text(PREPROCESS)


def add_ensemble(repository: Path, name: str, *, encoder: str = "", fingerprint: str = "abc") -> None:
    """`image` → `pixels` by `tiny_preprocess`, and with an encoder on to `embedding`."""
    first = 'step { model_name: "tiny_preprocess" model_version: -1 input_map { key: "image" value: "image" } '
    first += 'output_map { key: "pixels" value: "pixels" } }'
    output: Tensor = ("pixels", "TYPE_UINT8", [4, 4, 3])
    second = ""
    if encoder:
        output = ("embedding", "TYPE_FP32", [3])
        second = f'step {{ model_name: "{encoder}" model_version: -1 input_map {{ key: "pixels" value: "pixels" }} '
        second += 'output_map { key: "embedding" value: "embedding" } }'
    more = f"ensemble_scheduling {{ {first} {second} }}\n"
    more += f'parameters {{ key: "fingerprint" value {{ string_value: "{fingerprint}" }} }}'
    write_config(repository, name, "", [("image", "TYPE_STRING", [1])], [output], more=more)


def make_python_repository(folder: Path) -> Path:
    """A python step and an ensemble of it alone: what starts quickest and still has a canary."""
    add_preprocess(folder, "tiny_preprocess")
    add_ensemble(folder, "tiny_pooled")
    return folder


def make_full_repository(folder: Path) -> Path:
    """Every kind of model that the backend must serve."""
    add_preprocess(folder, "tiny_preprocess")
    add_encoder(folder, "tiny_pooled_encoder")
    add_ensemble(folder, "tiny_pooled", encoder="tiny_pooled_encoder")
    add_encoder(folder, "patient", delay_s=60)
    add_lookup(folder, "lookup")
    add_echo(folder, "echo")
    add_unbatched(folder, "unbatched")
    add_scalar(folder, "scalar")
    for threads in (1, 4):
        add_encoder(folder, f"threads_{threads}", more=_parameter("intra_op_thread_count", str(threads)))
    return folder


def _parameter(key: str, text: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}'


def make_broken_repository(folder: Path) -> dict[str, str]:
    """Models that cannot be loaded; returns for each a part of the reason that must be given."""
    reasons = {}

    def broken(name: str, reason: str, **changes: object) -> Path:
        reasons[name] = reason
        settings = {"inputs": ENCODER_INPUTS, "outputs": ENCODER_OUTPUTS, "more": "instance_group { kind: KIND_CPU }"}
        settings.update(changes)
        path = write_config(folder, name, "onnxruntime", **settings)  # type: ignore[arg-type]
        write_graph(path / "model.onnx", encoder_graph())
        return path

    (broken("no_file", "model.onnx does not exist") / "model.onnx").unlink()
    (broken("no_graph", "cannot load") / "model.onnx").write_text("this is no graph")
    broken("input_name", "the graph needs an input 'pixels'", inputs=[("picture", "TYPE_UINT8", [4, 4, 3])])
    broken("output_name", "config.pbtxt has output 'vector'", outputs=[("vector", "TYPE_FP32", [3])])
    broken("input_type", "input 'pixels' is TYPE_FP32", inputs=[("pixels", "TYPE_FP32", [4, 4, 3])])
    broken("output_dims", "output 'embedding' the dims [5], the graph [3]", outputs=[("embedding", "TYPE_FP32", [5])])
    broken("accelerator", "'tensorrt'", more=_ACCELERATOR)
    broken("count", "intra_op_thread_count is 'many'", more=_parameter("intra_op_thread_count", "many"))
    fixed = write_config(folder, "fixed_batch", "onnxruntime", [("x", "TYPE_FP32", [3])], [("y", "TYPE_FP32", [3])])
    reasons["fixed_batch"] = "first dimension of input 'x' in the graph is fixed ([2, 3])"
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "fixed",
        [value("x", "TYPE_FP32", [2, 3])],
        [value("y", "TYPE_FP32", [2, 3])],
    )
    write_graph(fixed / "model.onnx", graph)
    return reasons


_ACCELERATOR = (
    "instance_group { kind: KIND_CPU } "
    'optimization { execution_accelerators { cpu_execution_accelerator { name: "tensorrt" } } }'
)


def copy_repository(source: Path, target: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(source, target)
    return target
