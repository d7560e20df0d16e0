"""How Triton runs an export: devices, instances, queues, accelerators, warm-up. None of it changes a vector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from tritonclient.grpc import model_config_pb2 as pb
from vitriton._console.options import faults

from vitriton_export._errors import OptionError

Device = Literal["auto", "cpu", "gpu"]
Accelerator = Literal["tensorrt", "openvino"]

_KINDS = {
    "auto": pb.ModelInstanceGroup.KIND_AUTO,  # a GPU where there is one, else the CPU
    "cpu": pb.ModelInstanceGroup.KIND_CPU,
    "gpu": pb.ModelInstanceGroup.KIND_GPU,
}
CPU_BATCH_SIZE = 8
CPU_INSTANCES = 2
_WARMUP_LENGTH = 16  # of an open axis
# The device of each accelerator; it replaces "auto".
_RUNS_ON: dict[Accelerator, Device] = {"tensorrt": "gpu", "openvino": "cpu"}
_TENSORRT_MODES = {"fp32": "FP32", "fp16": "FP16"}

PANEL = "How Triton runs it"  # the group of these options in the help


def _gpus(text: str) -> tuple[int, ...]:
    """Turns `0,2` into the numbers of GPUs."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise OptionError("gpus", f"is {text!r}, which is not a list of numbers; write it as 0,1") from exc
    return numbers


def _batch_sizes(text: str) -> tuple[int, ...]:
    """Turns `1,8,32` into numbers, and `none` into an empty tuple."""
    try:
        return () if text == "none" else tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise OptionError(
            "warmup", f"is {text!r}, which is not a list of batch sizes; write it as 1,8,32, or none"
        ) from exc


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The settings with which Triton runs the steps. The defaults are right unless a measurement says otherwise.

    Without bounds on the queue and on the wait in it, Triton gives an instance its next batch ahead of time.

    Attributes:
        device: the device that runs the encoders, the networks of the model; auto is a GPU if there is one, else the
            CPU.
        instances: the number of instances of each encoder, for each GPU or on the CPU. Two on a CPU spare requests
            waits of half a second under load: one computes a batch while the other holds the next. The wheel's Triton
            has the weights once for all instances, NVIDIA's image has them for each. They are no spares: when the
            process of one dies, the server ends, or starts again (`vitriton serve --restart`). None: 2 where the export
            is for a CPU (device cpu, int8), else 1.
        gpus: the numbers of the GPUs that run the encoders, as `nvidia-smi` lists them; none: all GPUs of the server.
        max_gpu_bytes: the memory that each instance of an encoder may take on a GPU for weights and activations, in
            bytes, so that several models can share it. None: all that is free.
        preprocess_instances: the number of processes that prepare inputs (the preprocess or tokenize step), which share
            the cores. One process prepares some 2,000 images/s, however many cores there are.
        max_queue_delay_us: the longest time that a request waits for others to share its batch, in microseconds. With
            0, requests share a batch only if they are waiting for a free instance.
        max_queue_size: the largest number of requests that may wait in each step (preprocessing and encoder); further
            requests are refused. 0 means no limit.
        queue_timeout_ms: the longest time that a request may wait in each step, in milliseconds, unless its own timeout
            is shorter. 0 means no limit.
        accelerator: the execution accelerator of Triton's native onnxruntime backend, which is part of NVIDIA's image.
        tensorrt_cache: the folder for TensorRT's engines and timings on the server: an absolute path, or a path
            relative to the folder where the server is started.
        warmup: the batch sizes that each instance of an encoder runs before it is ready. None: 1; on a GPU, powers of
            two up to `max_batch_size`.
    """

    device: Annotated[Device, typer.Option(rich_help_panel=PANEL)] = "auto"
    instances: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=64, show_default="2 for a CPU, else 1", rich_help_panel=PANEL),
    ] = None
    gpus: Annotated[
        tuple[int, ...], typer.Option(metavar="0,1", parser=_gpus, show_default=False, rich_help_panel=PANEL)
    ] = ()
    max_gpu_bytes: Annotated[
        int | None, typer.Option(metavar="BYTES", min=1 << 20, max=1 << 40, rich_help_panel=PANEL)
    ] = None
    preprocess_instances: Annotated[int, typer.Option(metavar="N", min=1, max=64, rich_help_panel=PANEL)] = 1
    max_queue_delay_us: Annotated[
        int, typer.Option(metavar="MICROSECONDS", min=0, max=10_000_000, rich_help_panel=PANEL)
    ] = 0
    max_queue_size: Annotated[int, typer.Option(metavar="N", min=0, max=1_000_000, rich_help_panel=PANEL)] = 256
    queue_timeout_ms: Annotated[
        int, typer.Option(metavar="MILLISECONDS", min=0, max=3_600_000, rich_help_panel=PANEL)
    ] = 60_000
    accelerator: Annotated[Accelerator | None, typer.Option(rich_help_panel=PANEL)] = None
    tensorrt_cache: Annotated[str, typer.Option(metavar="PATH", rich_help_panel=PANEL)] = "tensorrt-cache"
    warmup: Annotated[
        tuple[int, ...] | None, typer.Option(metavar="1,8,32|none", parser=_batch_sizes, rich_help_panel=PANEL)
    ] = None

    def __post_init__(self) -> None:
        """Refuses values that Triton or the accelerator does not support."""
        for option, wrong in faults(self):
            raise OptionError(option, wrong)
        if self.accelerator is not None and self.device not in ("auto", _RUNS_ON[self.accelerator]):
            raise OptionError(
                "accelerator",
                f"is {self.accelerator}, which runs on a {_RUNS_ON[self.accelerator].upper()}, and `device` is "
                f"{self.device}; leave out one of the two",
            )
        if self.gpus and self.resolved_device != "gpu":
            raise OptionError("gpus", f"is {_listed(self.gpus)}, and `device` is {self.device}; set it to gpu")
        if min(self.gpus, default=0) < 0 or len(set(self.gpus)) < len(self.gpus):
            raise OptionError("gpus", f"is {_listed(self.gpus)}; name each GPU once, by its number from 0")
        if self.max_gpu_bytes is not None and self.resolved_device != "gpu":
            raise OptionError("max_gpu_bytes", f"is {self.max_gpu_bytes}, and `device` is {self.device}; set it to gpu")
        if self.max_gpu_bytes is not None and self.accelerator == "tensorrt":
            raise OptionError(
                "max_gpu_bytes",
                f"is {self.max_gpu_bytes}, and `accelerator` is tensorrt, which takes memory without a limit; leave "
                "out one of the two",
            )
        if not self.tensorrt_cache:
            raise OptionError("tensorrt_cache", "is empty; name a folder, as the server sees it")

    def check(self, *, max_batch_size: int, precision: str) -> None:
        """Refuses settings that conflict with other options of an export.

        Raises:
            OptionError: two options conflict; the text names them, and says what to do.
        """
        for size in self.warmup or ():
            if not 1 <= size <= max_batch_size:
                raise OptionError("warmup", f"has the batch size {size}; it must be from 1 to {max_batch_size}")
        if self.accelerator == "tensorrt" and precision not in _TENSORRT_MODES:
            raise OptionError(
                "accelerator",
                f"is tensorrt, which cannot run the graph of `precision` {precision}; use fp16, or leave out the "
                "accelerator",
            )

    @property
    def resolved_device(self) -> Device:
        """The device, after an accelerator has replaced "auto"."""
        return self.device if self.accelerator is None else _RUNS_ON[self.accelerator]

    def warmup_sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Returns the batch sizes that are run before a model is ready, in ascending order.

        On a GPU, the first run of each size chooses and loads its kernels, hence the powers of two. On a CPU, all sizes
        run the same code, and the largest would only delay the start.
        """
        if self.warmup is not None:
            return tuple(sorted(set(self.warmup)))
        if self.resolved_device != "gpu":
            return (1,)
        powers = {1 << power for power in range(max_batch_size.bit_length())}
        return tuple(sorted(powers | {max_batch_size}))

    def preferred_batch_size(self, max_batch_size: int, precision: str) -> int | None:
        """Returns the number of images that the dynamic batcher joins where more wait; None: as many as it can.

        On a CPU, an image takes the same time in a batch of 8 and of 32. Smaller batches are answered sooner, so that
        the next requests arrive and are decoded while the encoder works.
        """
        return CPU_BATCH_SIZE if self.for_cpu(precision) and max_batch_size > CPU_BATCH_SIZE else None

    def for_cpu(self, precision: str) -> bool:
        """Whether an export in a precision is for a CPU: int8 is, unless its device is a GPU."""
        return self.resolved_device == "cpu" or (self.resolved_device == "auto" and precision.startswith("int8"))


def add_instances(config: pb.ModelConfig, serving: Serving, precision: str) -> None:
    """Adds the instances of an encoder, whose graph is in a precision."""
    count = serving.instances or (CPU_INSTANCES if serving.for_cpu(precision) else 1)
    config.instance_group.add(count=count, kind=_KINDS[serving.resolved_device], gpus=serving.gpus)
    if serving.resolved_device != "gpu":
        config.parameters["share_session_between_instances"].string_value = "true"


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def add_batching(config: pb.ModelConfig, serving: Serving, *, delay: bool, preferred: int | None = None) -> None:
    """Adds dynamic batching, with a bounded queue unless both bounds are off.

    Args:
        config: the configuration of a step.
        serving: the settings.
        delay: whether requests wait for others in this step; one step is enough.
        preferred: the number of images in a batch where more wait; None: as many as there are.
    """
    config.dynamic_batching.SetInParent()  # it may be empty
    if preferred is not None:
        config.dynamic_batching.preferred_batch_size.append(preferred)
    if delay and serving.max_queue_delay_us:
        config.dynamic_batching.max_queue_delay_microseconds = serving.max_queue_delay_us
    if serving.max_queue_size:
        config.dynamic_batching.default_queue_policy.max_queue_size = serving.max_queue_size
    if serving.queue_timeout_ms:
        policy = config.dynamic_batching.default_queue_policy
        policy.timeout_action = pb.ModelQueuePolicy.REJECT
        # a request's own timeout counts only if the model has one as well
        policy.default_timeout_microseconds = serving.queue_timeout_ms * 1000
        policy.allow_timeout_override = True


def add_warmup(config: pb.ModelConfig, serving: Serving) -> None:
    """Adds batches of zeros for the inputs of a step; Triton reports it ready when it has run them."""
    for size in serving.warmup_sizes(config.max_batch_size):
        sample = config.model_warmup.add(name=f"batch of {size}", batch_size=size, count=1)
        for tensor in config.input:
            sample.inputs[tensor.name].data_type = tensor.data_type
            sample.inputs[tensor.name].dims.extend(_WARMUP_LENGTH if size < 0 else size for size in tensor.dims)
            sample.inputs[tensor.name].zero_data = True


def add_accelerator(config: pb.ModelConfig, serving: Serving, *, precision: str, cache_prefix: str) -> None:
    """Adds the execution accelerator, for the native onnxruntime backend.

    Args:
        config: the configuration of an encoder, with its input.
        serving: the settings.
        precision: the precision of the graph, in which TensorRT computes too.
        cache_prefix: the prefix of the names of TensorRT's engines. ONNX Runtime derives the rest from the graph's
            structure and not from its weights, so two models of one architecture would load each other's engine.
    """
    if serving.accelerator is None:
        return
    accelerators = config.optimization.execution_accelerators
    if serving.accelerator == "openvino":
        accelerators.cpu_execution_accelerator.add(name="openvino")
        return
    tensorrt = accelerators.gpu_execution_accelerator.add(name="tensorrt")
    # Keys and values: triton-inference-server/onnxruntime_backend, README.md and onnxruntime.cc
    parameters = {
        "precision_mode": _TENSORRT_MODES[precision],
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": serving.tensorrt_cache,
        "trt_engine_cache_prefix": cache_prefix,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": serving.tensorrt_cache,
        # an engine for all batch sizes; without profiles each new size would build one, during a request
        "trt_profile_min_shapes": _shape(config, 1),
        "trt_profile_opt_shapes": _shape(config, config.max_batch_size),
        "trt_profile_max_shapes": _shape(config, config.max_batch_size),
    }
    if precision == "fp16":
        parameters["trt_layer_norm_fp32_fallback"] = "1"  # the squares in it overflow in float16
    for key, value in parameters.items():
        tensorrt.parameters[key] = value


def add_cuda(config: pb.ModelConfig, serving: Serving, *, precision: str) -> None:
    """Adds the settings of ONNX Runtime's CUDA provider; both onnxruntime backends read them.

    Args:
        config: the configuration of an encoder.
        serving: the settings.
        precision: the precision of the graph.
    """
    if serving.resolved_device == "cpu":
        return
    if precision == "fp32":
        # By default it rounds the factors of float32 products to ten bits (TF32), which can exceed the gate.
        cuda = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        cuda.parameters["use_tf32"] = "0"
    if serving.max_gpu_bytes is not None:
        # Not among the accelerator's parameters: the native backend would overwrite it with its default.
        config.parameters["gpu_mem_limit"].string_value = str(serving.max_gpu_bytes)


def _shape(config: pb.ModelConfig, batch_size: int) -> str:
    tensor = config.input[0]
    return f"{tensor.name}:{'x'.join(str(size) for size in (batch_size, *tensor.dims))}"
