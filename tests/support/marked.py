"""Exports that load in a second and whose answers tell which of them made them.

The preprocess step fills its pixels with the export's mark, and the encoder returns what it got beside its own mark: an
answer with two different numbers is made of two exports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from vitriton._repository.names import OUTPUT
from vitriton.preprocessing import PreprocessSpec, Resize
from vitriton_export._processors.processor import Normalization
from vitriton_export._repository import deployment as _deployment
from vitriton_export._repository import install
from vitriton_export._repository.deployment import VERSION, Deployment
from vitriton_export._repository.first_step import PreprocessStep

SIDE = 4
# A PNG of one gray pixel; what is in it does not matter.
IMAGE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415478da63686868000003040181752e01bc0000000049454e44ae426082"
)
_PREPROCESS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        pixels = [np.full((len(batch), {side}, {side}, 3), {mark}, np.uint8) for batch in images]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("pixels", array)]) for array in pixels]
"""


def deployment(name: str, **changes: Any) -> Deployment:
    """An export of both outputs; all with the same fingerprint, unless it is changed."""
    settings: dict[str, Any] = {
        "name": name,
        "step": PreprocessStep(
            spec=PreprocessSpec((Resize("bilinear", height=SIDE, width=SIDE),), SIDE, SIDE),
            normalization=Normalization(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            pillow_version="0",
        ),
        "shapes": {"pooled": (2,), "unpooled": (1, 2)},
        "max_batch_size": 8,
        "model_id": "marked",
        "revision": None,
        "pooling": "cls",
        "l2_normalize": False,
        "precision": "fp32",
        "output_dtype": "fp32",
        "fingerprint": "v1-marked",
    }
    return Deployment(**settings | changes)


def stage(staging: Path, made: Deployment, mark: int) -> None:
    """Writes an export as `vitriton export` stages it."""
    _deployment.write(made, staging)
    (staging / made.first_step_name / VERSION / "model.py").write_text(_PREPROCESS.format(side=SIDE, mark=mark))
    for kind, shape in made.shapes.items():
        onnx.save(_graph(OUTPUT[kind], shape, mark), staging / made.encoder_name(kind) / VERSION / "model.onnx")
        (staging / made.ensemble_name(kind) / VERSION / "manifest.json").write_text("{}")


def export(repository: Path, name: str, mark: int, **changes: Any) -> int:
    """Exports it; returns the version that it has."""
    made = deployment(name, **changes)
    with install.staging_folder(repository, 0, name) as staging:
        stage(staging, made, mark)
        return install.install(staging, repository, made)


def mark_of(answer: np.ndarray) -> int:
    """The mark of the export that made an answer, (B, …, 2) float32; fails when two made it."""
    marks = {int(mark) for mark in answer.ravel()}
    assert len(marks) == 1, f"made of several exports: {answer.tolist()}"
    return marks.pop()


def _graph(output: str, shape: tuple[int, ...], mark: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["got"]),
        helper.make_node("Mul", ["got", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "mark"], ["own"]),
        helper.make_node("Concat", ["got", "own"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "shape"], [output]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("mark", TensorProto.FLOAT, [1], [float(mark)]),
        helper.make_tensor("shape", TensorProto.INT64, [1 + len(shape)], [-1, *shape]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["b", SIDE, SIDE, 3])
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", *shape])
    graph = helper.make_graph(nodes, "marked", [pixels], [made], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model
