"""Triton's `onnxruntime` backend as a Python-based backend, for a Triton without the native one.

It reads the same config.pbtxt as the native backend and refuses the same faults, so a repository that loads here loads
there. Source of the parameters and the checks: triton-inference-server/onnxruntime_backend (README.md, onnxruntime.cc).

It imports only the standard library, numpy, onnxruntime, the python backend's module, and the modules beside it.
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

sys.path.insert(0, str(Path(__file__).parent))  # Triton adds it only for a model's own file

from vitriton_onnxruntime_runs import Array, Arrays, Run, run_batch, side_by_side, sliced
from vitriton_onnxruntime_shared import Borrower, Compute, Owner, OwnerGoneError, shared_name

# The number of cores that this process may use; the launcher counts them (affinity and cgroup), while ONNX Runtime
# would use all of the host's.
CORES_VARIABLE = "VITRITON_CPU_CORES"

# BF16 is left out because the python backend passes tensors through numpy, which has no such type.
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

# Parameters of the model that the native backend passes to its CUDA provider, with the meaning of each number.
CUDA_CHOICES = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
}
CUDA_VALUES = ("gpu_mem_limit", "do_copy_in_default_stream")

# Rows of one run on a CPU: more rows gain no speed, overflow the caches, and take memory for their activations.
CPU_ROWS = 4

# Rows of one run on one core, while each other core has such a run of its own.
CORE_ROWS = 2

# Tokens of one run, where a row is the token ids of a text: as many rows as have these. A row of two tokens is too
# little work for a run, and one of 512 fills it.
CPU_TOKENS = 512
CORE_TOKENS = 256

# How long a thread spins for work before it sleeps: longer than an operator waits for the one before it. By default it
# spins for tens of milliseconds after a run, on a core that preprocessing then needs.
SPIN_DURATION = "session.intra_op.spin_duration_us"
SPIN_US = 1000

# A graph that ONNX Runtime has prepared for this machine: its weights are in the order of the CPU kernels, in a file
# beside it, which all sessions that load it map.
PREPARED_GRAPH = "prepared.onnx"
PREPARED_PREFIX = "vitriton-onnxruntime-"
PREPARED_LOCK = "lock"
SAVE_PREPARED = {
    "session.optimized_model_external_initializers_file_name": "prepared.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}
PREPARED_SIZES = 2.5  # times the model's files: it also contains the original weights
IN_MEMORY = ("tmpfs", "ramfs")
LARGE_TEMPORARY = Path("/var/tmp")  # by the Filesystem Hierarchy Standard

SHARE_SESSION = "share_session_between_instances"
SHRINK_ARENA = "memory.enable_memory_arena_shrinkage"
DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"


class LoadError(Exception):
    """The model cannot be loaded; the text says why, and what to do."""


class Config:
    """The parts of a model's config.pbtxt that the backend needs.

    Attributes:
        max_batch_size: the largest batch; 0 means that the tensors have no batch axis.
        inputs: the inputs: name → (data type, dims without the batch axis).
        outputs: the outputs, in the same form.
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
        """Returns a parameter as written, or None if the config lacks it."""
        return self._parameters.get(key)

    def number(self, key: str) -> int:
        """Returns a number; 0 when absent, which leaves the choice to ONNX Runtime, as in the native backend."""
        text = self._parameters.get(key, "0")
        try:
            return int(text)
        except ValueError as exc:
            raise LoadError(f"parameter {key} is {text!r}; it must be a whole number") from exc

    def flag(self, key: str) -> bool | None:
        """Returns a switch, or None if the config lacks it."""
        if (text := self._parameters.get(key)) is None:
            return None
        if text.lower() not in ("1", "true", "0", "false"):
            raise LoadError(f"parameter {key} is {text!r}; it must be 1, true, 0 or false")
        return text.lower() in ("1", "true")


def session_options(config: Config, cores: int) -> ort.SessionOptions:
    """Returns the session options for config.pbtxt.

    Args:
        config: the configuration of the model.
        cores: the number of cores that a run may use, unless the config sets a number of threads.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about the graph, which the export has checked
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
    """Returns the execution providers of an instance, the best first.

    Args:
        config: the configuration of the model.
        kind: the kind of the instance, by Triton's name: CPU, GPU or AUTO.
        device_id: the id of the GPU.
        available: the providers of the installed onnxruntime.

    Raises:
        LoadError: the config requests a GPU or an accelerator that this onnxruntime does not support.
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


def check_tensors(config: Config, graph_inputs: Iterable[Any], graph_outputs: Iterable[Any]) -> None:
    """Refuses a config.pbtxt that contradicts the graph, as the native backend does.

    Args:
        config: the configuration of the model.
        graph_inputs: the inputs of the graph, as onnxruntime's NodeArg.
        graph_outputs: the outputs of the graph, as onnxruntime's NodeArg.

    Raises:
        LoadError: the two differ; the text names the tensor, and says how.
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


def model_file(folder: Path, filename: str) -> Path:
    """Returns the ONNX file of a version folder; ONNX Runtime finds external data beside it."""
    path = folder / filename
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise LoadError(f"{path} does not exist; export the model again, or name the file in default_model_filename")
    return path


def usable_cores() -> int:
    """Returns the launcher's count of cores; without the launcher, the cores in this process's affinity."""
    text = os.environ.get(CORES_VARIABLE, "")
    return int(text) if text.isdigit() and int(text) > 0 else len(os.sched_getaffinity(0))


def instance_cores(config: Config, cores: int) -> int:
    """Returns the number of cores for a session: the sessions on the CPU share those of this process."""
    sessions = 1 if config.flag(SHARE_SESSION) else config.cpu_instances
    return max(1, cores // max(1, sessions))


def load(
    path: Path, config: Config, cores: int, wanted: Sequence[tuple[str, dict[str, str]]]
) -> tuple[ort.InferenceSession, ort.InferenceSession | None]:
    """Loads a session for all cores, and one for a single core where each core should compute alone.

    The two share their weights: both map the graph that ONNX Runtime has prepared, from a file that is removed at once.
    Without room for it, or if the config sets a number of threads, there is only the first.

    Args:
        path: the path of the graph.
        config: the configuration of the model.
        cores: the number of cores of the instance.
        wanted: the execution providers with their options.
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
            if not rows_can_be_joined(session.get_inputs(), session.get_outputs()):
                return session, None
            del session  # with its copy of the weights
            return opened(folder / PREPARED_GRAPH, whole), opened(folder / PREPARED_GRAPH, session_options(config, 1))
    except Exception as exc:  # a fault of the graph itself shows again
        session = opened(path, whole)
        pb_utils.Logger.log_warn(f"{path}: all cores compute each image together, which is slower for batches: {exc}")
        return session, None


@contextlib.contextmanager
def prepared_folder(model: Path) -> Iterator[Path]:
    """Makes a folder on a disk with room for a model that ONNX Runtime prepares, and removes it afterwards.

    Args:
        model: the folder of the model's files.

    Raises:
        OSError: no disk has room; the text says what to do.
    """
    needed = PREPARED_SIZES * sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    temporary = _place_for(needed)
    _remove_abandoned(temporary)
    folder = Path(tempfile.mkdtemp(prefix=PREPARED_PREFIX, dir=temporary))
    try:
        with (folder / PREPARED_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held until the process ends, however it ends
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Returns the type of a folder's file system, by the kernel's name; empty where it is unknown."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number:
            return kind.split()[0]
    return ""


def rows_can_be_joined(inputs: Iterable[Any], outputs: Iterable[Any]) -> bool:
    """Whether the other axes of the graph's outputs are the same for all rows of a batch: fixed, or an input's."""
    known = {dim for node in inputs for dim in node.shape[1:] if isinstance(dim, str)}
    return all(node.shape and all(isinstance(dim, int) or dim in known for dim in node.shape[1:]) for node in outputs)


def rows_are_token_ids(inputs: Iterable[Any]) -> bool:
    """Whether each row of each of the graph's inputs is a sequence of whole numbers, of an open length."""
    return all(
        node.type == "tensor(int64)" and len(node.shape) == 2 and not isinstance(node.shape[1], int) for node in inputs
    )


class Session:
    """A graph that is loaded, and computes batches of requests.

    Args:
        config: the configuration of the model.
        path: the path of the graph.
        kind: the kind of the instance, by Triton's name: CPU, GPU or AUTO.
        device_id: the id of the GPU.

    Raises:
        LoadError: the graph cannot be loaded; the text says why.
    """

    def __init__(self, config: Config, path: Path, kind: str, device_id: int) -> None:
        wanted = providers(config, kind, device_id, ort.get_available_providers())
        if wanted[0][0] == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels are not on a library path
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
        self._batched = config.max_batch_size > 0
        self._scalars = {node.name for node in session.get_inputs() if not node.shape}
        self._run_options = ort.RunOptions()
        if (shrink := config.text(SHRINK_ARENA)) is not None:
            self._run_options.add_run_config_entry(SHRINK_ARENA, shrink)
        self._run = self._runs(session)
        on_cpu = session.get_providers()[0] == "CPUExecutionProvider"
        of_texts = rows_are_token_ids(session.get_inputs())
        if on_cpu and self._batched and rows_can_be_joined(session.get_inputs(), session.get_outputs()):
            self._run = sliced(self._run, CPU_ROWS, CPU_TOKENS if of_texts else None)
        if single is not None:
            tokens = CORE_TOKENS if of_texts else None
            self._run = side_by_side(self._runs(single), self._run, cores, CORE_ROWS, tokens)

    def __call__(self, feeds: list[Arrays], wanted: list[list[str]]) -> list[Arrays | Exception]:
        """Computes a batch: one result or error for each request, as in `run_batch`."""
        for feed in feeds:
            feed.update({name: feed[name].reshape(()) for name in self._scalars & feed.keys()})
        return run_batch(self._run, feeds, wanted, batched=self._batched)

    def _runs(self, session: ort.InferenceSession) -> Run:
        return lambda names, feed: session.run(names, feed, self._run_options)


class TritonPythonModel:
    """One instance of a model, which Triton creates and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the graph and checks it against the config.

        Raises:
            LoadError: the model cannot be loaded; Triton reports the text as the reason.
        """
        self._config = config = Config(json.loads(args["model_config"]))
        path = model_file(Path(args["model_repository"]) / args["model_version"], config.filename)
        kind, device_id = args["model_instance_kind"], int(args["model_instance_device_id"])
        if kind != "CPU" or config.cpu_instances < 2 or not config.flag(SHARE_SESSION):
            self._compute: Compute = Session(config, path, kind, device_id)
            return
        name, number = shared_name(path, args["model_instance_name"])
        if number > 0:
            self._compute = borrower = Borrower(name)
            borrower.wait()
            return
        self._compute = owner = Owner(name)
        try:
            owner.start(Session(config, path, kind, device_id))
        except BaseException:
            owner.fail(config.cpu_instances - 1)
            raise

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Responds to a batch of requests, each with its own tensors or its own error."""
        feeds: list[Arrays] = []
        wanted: list[list[str]] = []
        answers: dict[int, pb_utils.InferenceResponse] = {}
        places: list[int] = []
        for place, request in enumerate(requests):
            try:
                feeds.append({tensor.name(): _as_array(tensor) for tensor in request.inputs()})
            except UnicodeDecodeError as exc:
                answers[place] = _error(f"a string input is not UTF-8: {exc}", pb_utils.TritonError.INVALID_ARG)
                continue
            wanted.append([name for name in request.requested_output_names() if name in self._config.outputs])
            places.append(place)
        try:
            results = self._compute(feeds, wanted)
        except OwnerGoneError as exc:
            results = [exc] * len(feeds)
        for place, result in zip(places, results, strict=True):
            answers[place] = _response(result)
        return [answers[place] for place in range(len(requests))]


def _as_array(tensor: pb_utils.Tensor) -> Array:
    array = tensor.as_numpy()
    if array.dtype == np.object_:
        # onnxruntime takes str; it would turn bytes into their repr.
        flat = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in array.ravel()]
        array = np.array(flat, dtype=np.object_).reshape(array.shape)
    return array


def _tensor(entry: dict[str, Any]) -> tuple[str, list[int]]:
    dims = entry["reshape"]["shape"] if entry.get("reshape") else entry.get("dims", [])
    return entry["data_type"], [int(dim) for dim in dims]


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
        f"execution accelerator {name!r} needs Triton's native onnxruntime backend; remove it from config.pbtxt, or "
        "serve with NVIDIA's image"
    )


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
    # Like CompareDimsSupported of the native backend: an input may be narrower than the graph, an output must be equal.
    equal = len(graph) == len(dims) and all(
        have == want or (role == "input" and have == -1) for have, want in zip(graph, dims, strict=True)
    )
    if not equal:
        raise LoadError(f"config.pbtxt gives {title} the dims {dims}, the graph {graph} (both without the batch axis)")


def _names(tensors: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in tensors) or "none"


def _cores_may_part(config: Config, cores: int) -> bool:
    return (
        cores > 1
        and config.max_batch_size > 0
        and config.number("intra_op_thread_count") <= 0
        and config.number("execution_mode") == 0
    )


def _place_for(needed: float) -> Path:
    """Returns the first of the usual temporary folders that is on a disk with enough bytes free."""
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
    """Removes the folders of processes that were killed while they loaded a model."""
    for folder in temporary.glob(f"{PREPARED_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / PREPARED_LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _response(result: Arrays | Exception) -> pb_utils.InferenceResponse:
    if isinstance(result, OwnerGoneError):
        return _error(str(result), pb_utils.TritonError.UNAVAILABLE)
    if isinstance(result, InvalidArgument):
        return _error(f"onnxruntime refuses the input: {result}", pb_utils.TritonError.INVALID_ARG)
    if isinstance(result, Exception):
        return _error(f"onnxruntime failed: {result}", pb_utils.TritonError.INTERNAL)
    # This also gives a scalar the shape [1], as Triton expects.
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in result.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _error(message: str, code: pb_utils.TritonErrorCode) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
