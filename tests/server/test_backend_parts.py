"""The pure parts of the onnxruntime backend: options, providers, batching."""

from __future__ import annotations

import importlib.util
import os
import resource
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from server.tiny_models import value, write_graph
from vitriton_server._process import runtime
from vitriton_server._process.locate import Host, locate

CPU = [("CPUExecutionProvider", {})]
BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    """The file as Triton loads it: by its path, with the python backend's own helpers importable."""
    source = Path(runtime.__file__).parent.with_name("backends") / "onnxruntime" / "model.py"
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
    assert backend.CORES_VARIABLE == runtime.CORES_VARIABLE


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
    settings = config(backend, parameters, instance_group=groups)
    options = backend.session_options(settings, backend.instance_cores(settings, 8))
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


@pytest.mark.parametrize(("length", "sizes"), [(2, [10]), (16, [4, 4, 2]), (64, [1] * 10), (500, [1] * 10)])
def test_rows_of_token_ids_are_counted_by_their_tokens(backend: ModuleType, length: int, sizes: list[int]) -> None:
    """Short texts share a run, and a long one has a run of its own."""
    ids = np.arange(10 * length).reshape(10, length)
    found, together = [], []

    def run(names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        found.append(len(feed["x"]))
        return [feed["x"]]

    def all_cores(names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        together.append(len(feed["x"]))
        return [feed["x"]]

    np.testing.assert_array_equal(backend.sliced(run, 3, 64)(["x"], {"x": ids})[0], ids)
    assert found == sizes
    found.clear()
    np.testing.assert_array_equal(backend.side_by_side(run, all_cores, 2, 3, 64)(["x"], {"x": ids})[0], ids)
    assert (max(found), sum(found), together) == (min(5, sizes[0]), 10, [])


@pytest.mark.parametrize(
    ("size", "cores", "sizes"),
    [
        (8, 2, [2, 2, 2, 2]),
        (7, 2, [2, 2, 1, 1]),
        (2, 2, [1, 1]),
        (9, 3, [2, 2, 2, 1, 1, 1]),
        (17, 4, [2, 2, 2, 2, 2, 2, 2, 2]),
        (1, 2, []),
    ],
)
def test_each_core_gets_as_many_rows(backend: ModuleType, size: int, cores: int, sizes: list[int]) -> None:
    """Two at a time, one after the other through the batch; fewer than there are cores are left over."""
    slices = sys.modules[backend.side_by_side.__module__].even_slices(size, cores, 2)
    assert [part.stop - part.start for part in slices] == sizes
    assert [part.start for part in slices] == [sum(sizes[:k]) for k in range(len(sizes))]
    assert size - sum(sizes) < cores


def test_cores_compute_side_by_side(backend: ModuleType) -> None:
    """At the same time, and what they cannot share evenly they compute together; the answers are in order."""
    together, sizes = Graph(), []
    both = threading.Barrier(2, timeout=60)

    def alone(names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        both.wait()
        sizes.append(len(feed["x"]))
        return [feed["x"] * feed["x"]]

    run = backend.side_by_side(alone, together, 2, 2)
    assert run(["square"], rows(*range(7)))[0].tolist() == [x * x for x in range(7)]
    assert sorted(sizes) == [1, 1, 2, 2]
    assert [size for _, size in together.runs] == [1]
    assert run(["square"], rows(3))[0].tolist() == [9]
    assert [size for _, size in together.runs] == [1, 1]


def test_an_error_of_one_core_is_that_of_the_run(backend: ModuleType) -> None:
    """And the next run is as good as any."""
    run = backend.side_by_side(Graph(), Graph(), 2, 2)
    with pytest.raises(ValueError, match="13"):
        run(["double"], rows(1, 2, 13, 4, 5))
    assert run(["double"], rows(1, 2, 3, 4, 5))[0].tolist() == [2, 4, 6, 8, 10]
    answers = backend.run_batch(run, [rows(1, 2), rows(13), rows(3)], [["double"]] * 3, batched=True)
    assert isinstance(answers[1], ValueError)
    assert [answers[0]["double"].tolist(), answers[2]["double"].tolist()] == [[2, 4], [6]]


def test_an_output_without_a_row_for_each_is_made_together(backend: ModuleType) -> None:
    """Such as a sum over the batch."""

    def run(names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [feed["x"].sum(keepdims=True)]

    assert backend.side_by_side(run, run, 2, 2)(["sum"], rows(1, 2, 3, 4))[0].tolist() == [10]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """`x` (B, 256) → `y` (B, 256) through a matrix that ONNX Runtime prepares for its kernels."""
    weight = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    ends = [[value(name, "TYPE_FP32", ["b", 256])] for name in "xy"]
    folder = tmp_path / "model" / "1"
    folder.mkdir(parents=True)
    write_graph(
        folder / "model.onnx", helper.make_graph(nodes, "product", *ends, [numpy_helper.from_array(weight, "weight")])
    )
    return folder / "model.onnx"


@pytest.fixture
def warnings(backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the backend logs, as Triton would show it; its temporary folder is the test's, on a disk."""
    seen: list[str] = []
    monkeypatch.setattr(backend.pb_utils, "Logger", SimpleNamespace(log_warn=seen.append), raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(backend.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(backend, "LARGE_TEMPORARY", tmp_path / "nothing")
    monkeypatch.setattr(backend, "file_system", lambda folder: "ext4")
    return seen


def mapped() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "prepared.bin" in line]


def test_two_sessions_with_the_weights_of_one(
    backend: ModuleType, graph: Path, warnings: list[str], tmp_path: Path
) -> None:
    """They map the same file, which no folder has any more, and compute what a session of the graph itself does."""
    together, alone = backend.load(graph, config(backend, max_batch_size=8), 2, CPU)
    assert [session.get_session_options().intra_op_num_threads for session in (together, alone)] == [2, 1]
    assert len(mapped()) >= 2
    assert len({line.split()[4] for line in mapped()}) == 1  # the inode
    assert list((tmp_path / "tmp").iterdir()) == []
    assert warnings == []
    x = np.random.default_rng(1).normal(size=(5, 256)).astype(np.float32)
    plain = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    for session in (together, alone):
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], plain)


@pytest.mark.parametrize(
    ("settings", "cores"),
    [
        ({"max_batch_size": 8}, 1),
        ({"max_batch_size": 0}, 2),
        ({"max_batch_size": 8, "parameters": {"intra_op_thread_count": "2"}}, 2),
        ({"max_batch_size": 8, "parameters": {"execution_mode": "1"}}, 2),
    ],
)
def test_where_one_session_is_what_is_wanted(
    backend: ModuleType, graph: Path, warnings: list[str], settings: dict[str, Any], cores: int
) -> None:
    """On one core, without a batch, and where the config says how threads are used; nothing is written for it."""
    _, alone = backend.load(graph, config(backend, **settings), cores, CPU)
    assert alone is None
    assert warnings == []


@pytest.mark.parametrize("fault", ["memory", "full", "limit", "gone"])
def test_without_a_place_for_the_prepared_graph(
    backend: ModuleType, graph: Path, warnings: list[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one session that works, a warning with the reason and what to do, and nothing is left behind."""
    if fault == "memory":
        monkeypatch.setattr(backend, "file_system", lambda folder: "tmpfs")
    if fault == "full":
        monkeypatch.setattr(backend.shutil, "disk_usage", lambda folder: SimpleNamespace(free=300_000))
    if fault == "gone":
        (tmp_path / "tmp").rmdir()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if fault == "limit":  # fails in the middle of writing, as a disk that others fill
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most[1]))
        together, alone = backend.load(graph, config(backend, max_batch_size=8), 2, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert alone is None
    assert together.run(None, {"x": np.zeros((3, 256), np.float32)})[0].shape == (3, 256)
    assert "all cores compute each image together" in warnings[0]
    if fault != "limit":
        assert "set TMPDIR" in warnings[0]
    assert list(tmp_path.glob("tmp/*")) == []


def test_a_folder_for_large_files_where_the_first_is_in_memory(
    backend: ModuleType, graph: Path, warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /tmp often is, and always in a container with a read-only root."""
    large = tmp_path / "large"
    large.mkdir()
    monkeypatch.setattr(backend, "LARGE_TEMPORARY", large)
    monkeypatch.setattr(backend, "file_system", lambda folder: "ext4" if folder == large else "tmpfs")
    with backend.prepared_folder(graph.parent) as folder:
        assert folder.parent == large
    assert list(large.iterdir()) == []


def test_what_a_killed_process_left_goes(backend: ModuleType, graph: Path, warnings: list[str], tmp_path: Path) -> None:
    """And what another is still loading stays."""
    left = tmp_path / "tmp" / f"{backend.PREPARED_PREFIX}left"
    left.mkdir()
    (left / backend.PREPARED_LOCK).touch()
    (left / "prepared.bin").touch()
    with backend.prepared_folder(graph.parent) as first, backend.prepared_folder(graph.parent) as second:
        assert {*(tmp_path / "tmp").iterdir()} == {first, second}


def test_a_graph_that_cannot_be_loaded_says_so_itself(backend: ModuleType, graph: Path, warnings: list[str]) -> None:
    """The error is that of the graph, and there is no word of its preparation."""
    graph.write_bytes(b"no graph")
    with pytest.raises(Exception, match=r"model\.onnx"):
        backend.load(graph, config(backend, max_batch_size=8), 2, CPU)
    assert warnings == []


def test_the_file_system_of_a_folder(backend: ModuleType, tmp_path: Path) -> None:
    """As the kernel's table of mounts has it; no name where it has none."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 {os.major(device)}:{os.minor(device)} / / rw,noatime shared:1 - tmpfs none rw\n")
    assert backend.file_system(tmp_path, mounts) == "tmpfs"
    mounts.write_text("36 35 999:9 / / rw - ext4 /dev/sda rw\n")
    assert backend.file_system(tmp_path, mounts) == ""


@pytest.mark.parametrize(
    ("shapes", "joined"),
    [
        ([["batch", 768]], True),
        ([["batch"]], True),
        ([["batch", "length", 768]], True),
        ([["batch", 3], ["batch", "longest"]], False),
        ([["batch", "batch"]], False),
        ([["batch", None]], False),
        ([[]], False),
    ],
)
def test_only_outputs_that_can_be_joined_are_sliced(backend: ModuleType, shapes: list[list[Any]], joined: bool) -> None:
    """What is as wide as the longest of the batch, or as the batch, could not be put together again."""
    inputs = [SimpleNamespace(shape=["batch", "length"])]
    assert backend.rows_can_be_joined(inputs, [SimpleNamespace(shape=shape) for shape in shapes]) is joined


@pytest.mark.parametrize(
    ("kind", "shape", "token_ids"),
    [
        ("tensor(int64)", ["batch", "length"], True),
        ("tensor(int64)", ["batch", 8], False),
        ("tensor(uint8)", ["batch", 224, 224, 3], False),
        ("tensor(float)", ["batch", "length"], False),
    ],
)
def test_which_rows_are_token_ids(backend: ModuleType, kind: str, shape: list[Any], token_ids: bool) -> None:
    """Whole numbers in rows of an open length."""
    assert backend.rows_are_token_ids([SimpleNamespace(type=kind, shape=shape)]) is token_ids


@pytest.mark.parametrize("output", [np.float32(1), np.ones((1, 2), np.float32)])
def test_an_output_without_a_row_for_each_is_not_sliced(backend: ModuleType, output: np.ndarray) -> None:
    """Such as a sum over the batch: it is what the graph makes of the whole."""
    sizes = []

    def run(names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(feed["x"]))
        return [np.asarray(output)]

    assert backend.sliced(run, 4)(["sum"], rows(*range(10)))[0].shape == np.asarray(output).shape
    assert sizes == [4, 10]
