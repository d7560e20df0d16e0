"""The pure parts of the onnxruntime backend: options, providers, batching."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from vitriton_server import _runtime
from vitriton_server._locate import Host, locate

CPU = [("CPUExecutionProvider", {})]
BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    """The file as Triton loads it: by its path, with the python backend's own helpers importable."""
    source = Path(_runtime.__file__).with_name("backends") / "onnxruntime" / "model.py"
    spec = importlib.util.spec_from_file_location("onnxruntime_backend_model", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(locate(Host.detect()).backends / "python")
        spec.loader.exec_module(module)
    return module


def config(backend: ModuleType, parameters: dict[str, str] | None = None, **more: Any) -> Any:
    texts = {key: {"string_value": text} for key, text in (parameters or {}).items()}
    return backend.Config({"name": "x", "parameters": texts, **more})


def test_both_sides_name_the_cores_alike(backend: ModuleType) -> None:
    """The launcher sets the variable that the backend reads."""
    assert backend.CORES_VARIABLE == _runtime.CORES_VARIABLE


@pytest.mark.parametrize(
    ("groups", "parameters", "threads"),
    [
        ([], {}, 8),
        ([{"kind": "KIND_CPU", "count": 2}], {}, 4),
        ([{"kind": "KIND_CPU", "count": 3}], {}, 2),
        ([{"kind": "KIND_CPU", "count": 100}], {}, 1),
        ([{"kind": "KIND_CPU", "count": 1}, {"kind": "KIND_GPU", "count": 4}], {}, 8),
        ([{"kind": "KIND_CPU", "count": 2}], {"intra_op_thread_count": "7"}, 7),
        ([{"kind": "KIND_CPU", "count": 2}], {"intra_op_thread_count": "0"}, 4),
    ],
)
def test_cpu_instances_share_the_cores(
    backend: ModuleType, groups: list[dict[str, Any]], parameters: dict[str, str], threads: int
) -> None:
    """Eight cores are divided by the CPU instances, unless the config counts threads itself."""
    options = backend.session_options(config(backend, parameters, instance_group=groups), 8)
    assert options.intra_op_num_threads == threads


def test_what_the_config_says_about_the_session(backend: ModuleType) -> None:
    """Level, mode and memory go to onnxruntime as with the native backend."""
    parameters = {"execution_mode": "1", "enable_mem_arena": "0", "enable_mem_pattern": "false"}
    options = backend.session_options(config(backend, parameters, optimization={"graph": {"level": -1}}), 2)
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    plain = backend.session_options(config(backend), 2)
    assert plain.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL


@pytest.mark.parametrize(
    ("parameters", "optimization"),
    [
        ({"execution_mode": "2"}, {}),
        ({"enable_mem_arena": "perhaps"}, {}),
        ({"inter_op_thread_count": "x"}, {}),
        ({}, {"graph": {"level": 9}}),
    ],
)
def test_values_that_cannot_be(backend: ModuleType, parameters: dict[str, str], optimization: dict[str, Any]) -> None:
    """They are refused when the model is loaded, with the value and what it may be."""
    with pytest.raises(backend.LoadError, match="must be"):
        backend.session_options(config(backend, parameters, optimization=optimization), 2)


@pytest.mark.parametrize(
    ("kind", "available", "expected"),
    [
        ("CPU", ["CPUExecutionProvider"], CPU),
        ("CPU", BOTH, CPU),
        ("AUTO", ["CPUExecutionProvider"], CPU),
        ("AUTO", BOTH, [("CUDAExecutionProvider", {"device_id": "1"}), *CPU]),
        ("GPU", BOTH, [("CUDAExecutionProvider", {"device_id": "1"}), *CPU]),
    ],
)
def test_which_providers_run_an_instance(
    backend: ModuleType, kind: str, available: Sequence[str], expected: list[tuple[str, dict[str, str]]]
) -> None:
    """CUDA for what may use a GPU where onnxruntime has it, and the CPU for the rest."""
    assert backend.providers(config(backend), kind, 1, available) == expected


def test_a_gpu_without_cuda_is_refused(backend: ModuleType) -> None:
    """The error says which package is missing."""
    with pytest.raises(backend.LoadError, match=r"KIND_GPU.*pip install 'onnxruntime-gpu"):
        backend.providers(config(backend), "GPU", 0, ["CPUExecutionProvider"])


def test_cuda_options_of_the_config(backend: ModuleType) -> None:
    """The native backend's numbers become onnxruntime's words; another accelerator is refused by name."""
    accelerators = {"gpu_execution_accelerator": [{"name": "cuda", "parameters": {"use_tf32": "0"}}]}
    parameters = {"cudnn_conv_algo_search": "1", "gpu_mem_limit": "1000"}
    settings = config(backend, parameters, optimization={"execution_accelerators": accelerators})
    options = backend.providers(settings, "GPU", 3, BOTH)[0][1]
    assert options == {
        "device_id": "3",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": "1000",
    }
    other = {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt"}]}}
    with pytest.raises(backend.LoadError, match="tensorrt"):
        backend.providers(config(backend, optimization=other), "GPU", 0, BOTH)


class Graph:
    """Doubles and squares; refuses a row of 13."""

    def __init__(self) -> None:
        self.runs: list[tuple[list[str], int]] = []

    def __call__(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        x = feed["x"]
        self.runs.append((names, len(x)))
        if (x == 13).any():
            raise ValueError("13")
        results = {"double": 2 * x, "square": x * x}
        return [results[name] for name in names]


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.float32)}


def test_one_run_for_all_with_the_outputs_that_somebody_wants(backend: ModuleType) -> None:
    """Requests are joined; each gets its rows of what it asked for, and what nobody asked for is not computed."""
    graph = Graph()
    answers = backend.run_batch(graph, [rows(1, 2), rows(3)], [["double"], ["double"]], batched=True)
    assert graph.runs == [(["double"], 3)]
    assert [answer["double"].tolist() for answer in answers] == [[2, 4], [6]]
    answers = backend.run_batch(graph, [rows(1), rows(3)], [["square"], ["double", "square"]], batched=True)
    assert [list(answer) for answer in answers] == [["square"], ["double", "square"]]


def test_a_failed_batch_is_run_again_one_by_one(backend: ModuleType) -> None:
    """Only the request whose fault it is gets the error."""
    graph = Graph()
    answers = backend.run_batch(graph, [rows(1), rows(13), rows(3)], [["double"]] * 3, batched=True)
    assert [size for _, size in graph.runs] == [3, 1, 1, 1]
    assert isinstance(answers[1], ValueError)
    assert answers[0]["double"].tolist() == [2]
    assert answers[2]["double"].tolist() == [6]


def test_what_cannot_be_joined_runs_alone(backend: ModuleType) -> None:
    """Requests of different shapes, and those of a model without a batch axis."""
    for feeds, batched in (([rows(1), {"x": np.ones((1, 2), np.float32)}], True), ([rows(1), rows(2)], False)):
        graph = Graph()
        backend.run_batch(graph, feeds, [["double"]] * 2, batched=batched)
        assert len(graph.runs) == 2


def test_a_batch_in_slices(backend: ModuleType) -> None:
    """The same answers as of one run, from runs of few rows."""
    graph = Graph()
    answer = backend.sliced(graph, 4)(["square", "double"], rows(*range(10)))
    assert [size for _, size in graph.runs] == [4, 4, 2]
    assert [array.tolist() for array in answer] == [[x * x for x in range(10)], [2 * x for x in range(10)]]
    graph = Graph()
    backend.sliced(graph, 4)(["double"], rows(1, 2, 3, 4))
    assert [size for _, size in graph.runs] == [4]


@pytest.mark.parametrize(
    ("shapes", "fixed"),
    [
        ([["batch", 768]], True),
        ([["batch"]], True),
        ([["batch", 3], ["batch", "longest"]], False),
        ([["batch", None]], False),
        ([[]], False),
    ],
)
def test_only_outputs_of_fixed_rows_are_sliced(backend: ModuleType, shapes: list[list[Any]], fixed: bool) -> None:
    """What is as wide as the longest of the batch, or as the batch, could not be put together again."""
    assert backend.rows_are_fixed([SimpleNamespace(shape=shape) for shape in shapes]) is fixed


@pytest.mark.parametrize("output", [np.float32(1), np.ones((1, 2), np.float32)])
def test_an_output_without_a_row_for_each_is_not_sliced(backend: ModuleType, output: np.ndarray) -> None:
    """Such as a sum over the batch: it is what the graph makes of the whole."""
    sizes = []

    def run(names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(feed["x"]))
        return [np.asarray(output)]

    assert backend.sliced(run, 4)(["sum"], rows(*range(10)))[0].shape == np.asarray(output).shape
    assert sizes == [4, 10]
