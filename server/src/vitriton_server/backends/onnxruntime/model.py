"""Triton's `onnxruntime` backend as a Python-based backend, for a Triton that comes without the native one.

It reads the same config.pbtxt as the native backend and refuses what that refuses, so that a repository that loads here
loads there. Source of the parameters and the checks: triton-inference-server/onnxruntime_backend (README.md,
onnxruntime.cc).

It imports only the standard library, numpy, onnxruntime, what the python backend brings, and the module beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

sys.path.insert(0, str(Path(__file__).parent))  # Triton has it there for a model's own file alone

from vitriton_onnxruntime_runs import Array, Arrays, Run, run_batch, side_by_side, sliced

# The cores that this process may really use; the launcher counts them (affinity and cgroup), ONNX Runtime would take
# all of the host's.
CORES_VARIABLE = "VITRITON_CPU_CORES"

# BF16 is left out because numpy, through which the python backend hands over tensors, has no such type.
ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# Parameters of the model that the native backend hands to its CUDA provider, with what each number stands for.
CUDA_CHOICES = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
}
CUDA_VALUES = ("gpu_mem_limit", "do_copy_in_default_stream")

# Rows of one run on a CPU: more bring no speed there, leave the caches, and take memory for their activations.
CPU_ROWS = 4

# The same of a run on one core, beside which each other core has such a run of its own.
CORE_ROWS = 2

# How long a thread looks for work before it sleeps: longer than an operator waits for the one before it. By its default
# it goes on for tens of milliseconds after a run, on a core that preprocessing needs then.
SPIN_DURATION = "session.intra_op.spin_duration_us"
SPIN_US = 1000

# A graph as ONNX Runtime has prepared it for this machine: its weights, ordered as its CPU kernels read them, lie in a
# file beside it, and all sessions that load it map that file.
PREPARED_GRAPH = "prepared.onnx"
PREPARED_PREFIX = "vitriton-onnxruntime-"
PREPARED_LOCK = "lock"
SAVE_PREPARED = {
    "session.optimized_model_external_initializers_file_name": "prepared.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}
PREPARED_SIZES = 2.5  # of the model's files: the weights as they were lie in it too
IN_MEMORY = ("tmpfs", "ramfs")
LARGE_TEMPORARY = Path("/var/tmp")  # by the file system hierarchy's standard

SHRINK_ARENA = "memory.enable_memory_arena_shrinkage"
DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"


class LoadError(Exception):
    """The model cannot be loaded; the text says why and what to do."""


class Config:
    """What the backend needs of a model's config.pbtxt.

    Attributes:
        max_batch_size: 0 means that the tensors have no batch axis.
        inputs: name → (data type, dims without the batch axis).
        outputs: the same for the outputs.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.max_batch_size: int = document.get("max_batch_size", 0)
        self.filename: str = document.get("default_model_filename") or "model.onnx"
        self.inputs = {entry["name"]: _tensor(entry) for entry in document.get("input", [])}
        self.optional = {entry["name"] for entry in document.get("input", []) if entry.get("optional")}
        self.outputs = {entry["name"]: _tensor(entry) for entry in document.get("output", [])}
        groups = [group for group in document.get("instance_group", []) if group.get("kind") == "KIND_CPU"]
        self.cpu_instances = sum(int(group.get("count", 1)) for group in groups)
        optimization = document.get("optimization", {})
        self.graph_level = int(optimization.get("graph", {}).get("level", 0))
        self.accelerators: dict[str, Any] = optimization.get("execution_accelerators", {})
        self.custom_operators: list[str] = document.get("model_operations", {}).get("op_library_filename", [])
        self._parameters = {key: value.get("string_value", "") for key, value in document.get("parameters", {}).items()}

    def text(self, key: str) -> str | None:
        """A parameter as written, or None if the config does not have it."""
        return self._parameters.get(key)

    def number(self, key: str) -> int:
        """A parameter that counts something; 0 when absent, which is the native backend's word for "you choose"."""
        text = self._parameters.get(key, "0")
        try:
            return int(text)
        except ValueError as exc:
            raise LoadError(f"parameter {key} is {text!r}; it must be a whole number") from exc

    def flag(self, key: str) -> bool | None:
        """A parameter that switches something, or None if the config does not have it."""
        if (text := self._parameters.get(key)) is None:
            return None
        if text.lower() not in ("1", "true", "0", "false"):
            raise LoadError(f"parameter {key} is {text!r}; it must be 1, true, 0 or false")
        return text.lower() in ("1", "true")


def _tensor(entry: dict[str, Any]) -> tuple[str, list[int]]:
    dims = entry["reshape"]["shape"] if entry.get("reshape") else entry.get("dims", [])
    return entry["data_type"], [int(dim) for dim in dims]


def session_options(config: Config, cores: int) -> ort.SessionOptions:
    """The session options that config.pbtxt asks for.

    Args:
        config: of the model.
        cores: that a run may use, unless the config counts threads itself.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about the graph, which the export has checked
    if config.graph_level not in GRAPH_LEVELS:
        raise LoadError(f"optimization.graph.level is {config.graph_level}; it must be -1, 0, 1 or 2")
    options.graph_optimization_level = GRAPH_LEVELS[config.graph_level]
    mode = config.number("execution_mode")
    if mode not in (0, 1):
        raise LoadError(f"parameter execution_mode is {mode}; it must be 0 (sequential) or 1 (parallel)")
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if mode else ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = max(0, config.number("intra_op_thread_count")) or cores
    options.inter_op_num_threads = max(0, config.number("inter_op_thread_count")) or cores
    options.add_session_config_entry(SPIN_DURATION, str(SPIN_US))
    arena, pattern = config.flag("enable_mem_arena"), config.flag("enable_mem_pattern")
    if arena is not None:
        options.enable_cpu_mem_arena = arena
    if pattern is not None:
        options.enable_mem_pattern = pattern
    if (device_allocator := config.text(DEVICE_ALLOCATOR)) is not None:
        options.add_session_config_entry(DEVICE_ALLOCATOR, device_allocator)
    for library in config.custom_operators:
        options.register_custom_ops_library(library)
    return options


def providers(config: Config, kind: str, device_id: int, available: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The execution providers of an instance, best first.

    Args:
        config: of the model.
        kind: of the instance, as Triton names it: CPU, GPU or AUTO.
        device_id: of the GPU.
        available: the providers that the installed onnxruntime has.

    Raises:
        LoadError: a GPU or an accelerator is asked for that this onnxruntime cannot serve.
    """
    for accelerator in config.accelerators.get("cpu_execution_accelerator", []):
        raise LoadError(_no_accelerator(accelerator["name"]))
    has_cuda = "CUDAExecutionProvider" in available
    if kind == "GPU" and not has_cuda:
        raise LoadError(
            "instance_group asks for a GPU (KIND_GPU), but the installed onnxruntime has no CUDA provider "
            f"({', '.join(available)}); `pip uninstall -y onnxruntime onnxruntime-gpu` and then "
            "`pip install 'onnxruntime-gpu[cuda,cudnn]'`, or use KIND_CPU"
        )
    chosen: list[tuple[str, dict[str, str]]] = []
    if has_cuda and kind in ("GPU", "AUTO"):
        chosen.append(("CUDAExecutionProvider", _cuda_options(config, device_id)))
    return [*chosen, ("CPUExecutionProvider", {})]


def _cuda_options(config: Config, device_id: int) -> dict[str, str]:
    options = {"device_id": str(device_id)}
    for accelerator in config.accelerators.get("gpu_execution_accelerator", []):
        if accelerator["name"] != "cuda":
            raise LoadError(_no_accelerator(accelerator["name"]))
        options.update(accelerator.get("parameters", {}))
    for key, choices in CUDA_CHOICES.items():
        text = config.text(key)
        if text is not None and text not in choices:
            raise LoadError(f"parameter {key} is {text!r}; it must be one of {', '.join(choices)}")
        if text is not None:
            options[key] = choices[text]
    options.update({key: text for key in CUDA_VALUES if (text := config.text(key)) is not None})
    return options


def _no_accelerator(name: str) -> str:
    return (
        f"execution accelerator {name!r} is asked for, which only Triton's native onnxruntime backend has; remove it "
        "from config.pbtxt or serve with NVIDIA's image"
    )


def check_tensors(config: Config, graph_inputs: Iterable[Any], graph_outputs: Iterable[Any]) -> None:
    """Refuses a config.pbtxt that disagrees with the graph, as the native backend does.

    Args:
        config: of the model.
        graph_inputs: onnxruntime's NodeArg for each input of the graph.
        graph_outputs: the same for the outputs.

    Raises:
        LoadError: names the tensor and what both sides say.
    """
    inputs = {node.name: node for node in graph_inputs}
    outputs = {node.name: node for node in graph_outputs}
    for name in inputs:
        if name not in config.inputs:
            raise LoadError(
                f"the graph needs an input {name!r} that config.pbtxt does not have (it has {_names(config.inputs)})"
            )
    for role, wanted, found in (("input", config.inputs, inputs), ("output", config.outputs, outputs)):
        for name, (data_type, dims) in wanted.items():
            if name in found:
                _check_tensor(config, role, found[name], data_type, dims)
            elif name not in config.optional or role == "output":
                raise LoadError(f"config.pbtxt has {role} {name!r}, the graph only {_names(found)}")


def _check_tensor(config: Config, role: str, node: Any, data_type: str, dims: list[int]) -> None:
    title = f"{role} {node.name!r}"
    if data_type not in ONNX_TYPES:
        raise LoadError(f"config.pbtxt gives {title} the type {data_type}, which this backend cannot pass on")
    if node.type != ONNX_TYPES[data_type]:
        raise LoadError(f"config.pbtxt says that {title} is {data_type}, the graph says {node.type}")
    graph = [dim if isinstance(dim, int) else -1 for dim in node.shape]
    if not graph and not config.max_batch_size:
        if any(dim != 1 for dim in dims):
            raise LoadError(
                f"config.pbtxt gives {title} the dims {dims}, but it is a scalar in the graph: use dims [1]"
            )
        return
    if config.max_batch_size:
        if not graph or graph[0] != -1:
            raise LoadError(
                f"max_batch_size is {config.max_batch_size}, but the first dimension of {title} in the graph is fixed "
                f"({graph}); export it with a dynamic batch axis or set max_batch_size to 0"
            )
        graph = graph[1:]
    # As CompareDimsSupported of the native backend: an input may be narrower than the graph, an output must be equal.
    equal = len(graph) == len(dims) and all(
        have == want or (role == "input" and have == -1) for have, want in zip(graph, dims, strict=True)
    )
    if not equal:
        raise LoadError(f"config.pbtxt gives {title} the dims {dims}, the graph {graph} (both without the batch axis)")


def _names(tensors: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in tensors) or "none"


def model_file(folder: Path, filename: str) -> Path:
    """The ONNX file of a version folder; external data lies beside it and is found by ONNX Runtime itself."""
    path = folder / filename
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise LoadError(f"{path} does not exist; export the model again, or name the file in default_model_filename")
    return path


def usable_cores() -> int:
    """The launcher's count; without the launcher, the cores that this process is bound to."""
    text = os.environ.get(CORES_VARIABLE, "")
    return int(text) if text.isdigit() and int(text) > 0 else len(os.sched_getaffinity(0))


def instance_cores(config: Config, cores: int) -> int:
    """The cores that an instance may use, of those that this process may: the model's CPU instances divide them."""
    return max(1, cores // max(1, config.cpu_instances))


def load(
    path: Path, config: Config, cores: int, wanted: Sequence[tuple[str, dict[str, str]]]
) -> tuple[ort.InferenceSession, ort.InferenceSession | None]:
    """A session of all cores, and one of a single core where the cores are to compute each for itself.

    The two hold their weights once: both map the graph that ONNX Runtime has prepared, from a file that is removed at
    once. Where there is no room for it, or the config counts threads itself, there is only the first.

    Args:
        path: of the graph.
        config: of the model.
        cores: of the instance.
        wanted: the execution providers.
    """

    def opened(graph: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        return ort.InferenceSession(str(graph), sess_options=options, providers=wanted)

    whole = session_options(config, cores)
    if wanted[0][0] != "CPUExecutionProvider" or not _cores_may_part(config, cores):
        return opened(path, whole), None
    try:
        with prepared_folder(path.parent) as folder:
            saving = session_options(config, cores)
            saving.optimized_model_filepath = str(folder / PREPARED_GRAPH)
            for entry, value in SAVE_PREPARED.items():
                saving.add_session_config_entry(entry, value)
            session = opened(path, saving)
            if not rows_are_fixed(session.get_outputs()):
                return session, None
            del session  # and its own copy of the weights
            return opened(folder / PREPARED_GRAPH, whole), opened(folder / PREPARED_GRAPH, session_options(config, 1))
    except Exception as exc:  # if it is the graph's own fault, it shows again
        session = opened(path, whole)
        pb_utils.Logger.log_warn(f"{path}: all cores compute each image together, which is slower for batches: {exc}")
        return session, None


def _cores_may_part(config: Config, cores: int) -> bool:
    return (
        cores > 1
        and config.max_batch_size > 0
        and config.number("intra_op_thread_count") <= 0
        and config.number("execution_mode") == 0
    )


@contextlib.contextmanager
def prepared_folder(model: Path) -> Iterator[Path]:
    """A folder on a disk with room for a model as ONNX Runtime prepares it; it is removed in the end.

    Args:
        model: the folder of its files.

    Raises:
        OSError: there is none; the text says what to do.
    """
    needed = PREPARED_SIZES * sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    temporary = _place_for(needed)
    _remove_abandoned(temporary)
    folder = Path(tempfile.mkdtemp(prefix=PREPARED_PREFIX, dir=temporary))
    try:
        with (folder / PREPARED_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # for as long as the process lives, whatever ends it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place_for(needed: float) -> Path:
    """The first of the usual folders for temporary files that is on a disk with so many bytes free."""
    reasons = []
    for place in dict.fromkeys((Path(tempfile.gettempdir()), LARGE_TEMPORARY)):
        if not os.access(place, os.W_OK | os.X_OK):
            reasons.append(f"{place} cannot be written to")
        elif (kind := file_system(place)) in IN_MEMORY:
            reasons.append(f"{place} is in memory ({kind})")
        elif (free := shutil.disk_usage(place).free) < needed:
            reasons.append(f"{place} has {free / 1e6:.0f} MB free of {needed / 1e6:.0f}")
        else:
            return place
    raise OSError(f"{', '.join(reasons)}; set TMPDIR to a folder on a disk, with room")


def _remove_abandoned(temporary: Path) -> None:
    """Removes what processes that were killed while they loaded a model have left."""
    for folder in temporary.glob(f"{PREPARED_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / PREPARED_LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that a folder is on, as the kernel names it; empty where it does not tell."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number:
            return kind.split()[0]
    return ""


def rows_are_fixed(outputs: Iterable[Any]) -> bool:
    """Whether all axes but the batch are fixed, for each of the graph's outputs."""
    return all(node.shape and all(isinstance(dim, int) for dim in node.shape[1:]) for node in outputs)


class TritonPythonModel:
    """One instance of a model; Triton makes it and calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the graph and checks it against the config.

        Raises:
            LoadError: becomes the reason that Triton gives for not loading the model.
        """
        self._config = config = Config(json.loads(args["model_config"]))
        kind, device_id = args["model_instance_kind"], int(args["model_instance_device_id"])
        path = model_file(Path(args["model_repository"]) / args["model_version"], config.filename)
        wanted = providers(config, kind, device_id, ort.get_available_providers())
        if wanted[0][0] == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN from NVIDIA's own wheels are on no library path
        cores = instance_cores(config, usable_cores())
        try:
            session, single = load(path, config, cores, wanted)
        except Exception as exc:
            raise LoadError(f"onnxruntime {ort.__version__} cannot load {path}: {exc}") from exc
        if kind == "GPU" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise LoadError(
                "instance_group asks for a GPU (KIND_GPU), but onnxruntime could not start its CUDA provider; its "
                "own error above names the library or the driver that is missing"
            )
        check_tensors(config, session.get_inputs(), session.get_outputs())
        self._scalars = {node.name for node in session.get_inputs() if not node.shape}
        self._run_options = ort.RunOptions()
        if (shrink := config.text(SHRINK_ARENA)) is not None:
            self._run_options.add_run_config_entry(SHRINK_ARENA, shrink)
        self._run = self._runs(session)
        on_cpu = session.get_providers()[0] == "CPUExecutionProvider"
        if on_cpu and config.max_batch_size > 0 and rows_are_fixed(session.get_outputs()):
            self._run = sliced(self._run, CPU_ROWS)
        if single is not None:
            self._run = side_by_side(self._runs(single), self._run, cores, CORE_ROWS)

    def _runs(self, session: ort.InferenceSession) -> Run:
        return lambda names, feed: session.run(names, feed, self._run_options)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answers a batch of requests, each with its own tensors or its own error."""
        feeds: list[Arrays] = []
        wanted: list[list[str]] = []
        answers: dict[int, pb_utils.InferenceResponse] = {}
        places: list[int] = []
        for place, request in enumerate(requests):
            try:
                feeds.append({tensor.name(): self._as_array(tensor) for tensor in request.inputs()})
            except UnicodeDecodeError as exc:
                answers[place] = _error(f"a string input is not UTF-8: {exc}", pb_utils.TritonError.INVALID_ARG)
                continue
            wanted.append([name for name in request.requested_output_names() if name in self._config.outputs])
            places.append(place)
        results = run_batch(self._run, feeds, wanted, batched=self._config.max_batch_size > 0)
        for place, result in zip(places, results, strict=True):
            answers[place] = _response(result)
        return [answers[place] for place in range(len(requests))]

    def _as_array(self, tensor: pb_utils.Tensor) -> Array:
        array = tensor.as_numpy()
        if array.dtype == np.object_:
            # onnxruntime takes str; bytes it would turn into their repr.
            flat = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in array.ravel()]
            array = np.array(flat, dtype=np.object_).reshape(array.shape)
        return array.reshape(()) if tensor.name() in self._scalars else array


def _response(result: Arrays | Exception) -> pb_utils.InferenceResponse:
    if isinstance(result, InvalidArgument):
        return _error(f"onnxruntime refuses the input: {result}", pb_utils.TritonError.INVALID_ARG)
    if isinstance(result, Exception):
        return _error(f"onnxruntime failed: {result}", pb_utils.TritonError.INTERNAL)
    # Gives a scalar the shape [1] too, which is how Triton writes it.
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in result.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _error(message: str, code: pb_utils.TritonErrorCode) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
