"""How Triton is to run an export: flags, refusals, warm-up in a real Triton; and the same bytes each time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from support import marked
from tritonclient.grpc import model_config_pb2 as pb
from typer.testing import CliRunner
from vitriton import preprocessing
from vitriton.cli import app
from vitriton_export import ExportError, ExportOptions
from vitriton_export._repository import deployment
from vitriton_export._serving import Serving
from vitriton_server import TritonServer

GROUP = pb.ModelInstanceGroup
NO_TF32 = text_format.Parse(
    'execution_accelerators { gpu_execution_accelerator { name: "cuda" parameters { key: "use_tf32" value: "0" } } }',
    pb.ModelOptimizationPolicy(),
)


def encoder(**options: Any) -> pb.ModelConfig:
    """The pooled encoder's configuration."""
    made = marked.deployment(
        "m",
        serving=ExportOptions(**options).serving,
        precision=options.get("precision", "fp32"),
        max_batch_size=options.get("max_batch_size", 8),
    )
    return deployment.configs(made, 1)["m_pooled_encoder"]


def test_the_defaults() -> None:
    """One instance where there is a GPU or not, no wait for a batch, a bounded queue, one image to warm up."""
    config = encoder()
    assert [(group.kind, group.count) for group in config.instance_group] == [(GROUP.KIND_AUTO, 1)]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 256
    assert config.dynamic_batching.default_queue_policy.default_timeout_microseconds == 60_000_000
    assert [sample.batch_size for sample in config.model_warmup] == [1]
    assert config.optimization == NO_TF32
    assert not encoder(device="cpu").HasField("optimization")


def test_each_flag_has_its_place() -> None:
    """Instances and the delay are the encoder's; queues are bounded alike in both steps."""
    serving = Serving(device="cpu", instances=3, max_queue_delay_us=500, max_queue_size=7, queue_timeout_ms=250)
    configs = deployment.configs(marked.deployment("m", serving=serving), 1)
    config, preprocess = configs["m_pooled_encoder"], configs["m_preprocess"]
    assert [(group.kind, group.count) for group in config.instance_group] == [(GROUP.KIND_CPU, 3)]
    assert [(group.kind, group.count) for group in preprocess.instance_group] == [(GROUP.KIND_CPU, 1)]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert preprocess.dynamic_batching.max_queue_delay_microseconds == 0
    for step in (config, preprocess):
        assert step.dynamic_batching.default_queue_policy.max_queue_size == 7
        assert step.dynamic_batching.default_queue_policy.default_timeout_microseconds == 250_000


def test_some_of_the_gpus() -> None:
    """They are named in the encoder's configuration alone; without names, Triton takes all."""
    configs = deployment.configs(marked.deployment("m", serving=Serving(device="gpu", gpus=(0, 2), instances=2)), 1)
    (group,) = configs["m_pooled_encoder"].instance_group
    assert (group.kind, group.count, list(group.gpus)) == (GROUP.KIND_GPU, 2, [0, 2])
    assert not configs["m_preprocess"].instance_group[0].gpus
    assert not encoder(device="gpu").instance_group[0].gpus


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_memory_on_a_gpu(precision: str) -> None:
    """It is where the native backend does not overwrite it: a parameter of the encoder, not of its accelerator."""
    config = encoder(device="gpu", max_gpu_bytes=1 << 32, precision=precision)
    assert config.parameters["gpu_mem_limit"].string_value == "4294967296"
    assert "gpu_mem_limit" not in encoder(device="gpu", precision=precision).parameters
    assert "gpu_mem_limit" not in str(config.optimization)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "gpu"}, NO_TF32),
        ({"device": "auto", "precision": "fp32"}, NO_TF32),
        ({"device": "gpu", "precision": "fp16"}, None),
        ({"device": "gpu", "precision": "int8"}, None),
        ({"device": "cpu"}, None),
    ],
)
def test_float32_is_float32_on_a_gpu(options: dict[str, Any], expected: pb.ModelOptimizationPolicy | None) -> None:
    """The export in float32 turns off TF32, with which a GPU might exceed the gate of the export."""
    config = encoder(**options)
    assert (config.optimization if config.HasField("optimization") else None) == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gpus": (0,)}, "gpus is 0, and `device` is auto; set it to gpu"),
        ({"gpus": (0,), "device": "cpu"}, "gpus is 0, and `device` is cpu; set it to gpu"),
        ({"gpus": (1, 1), "device": "gpu"}, "gpus is 1,1; name each GPU once"),
        ({"gpus": (-1,), "device": "gpu"}, "gpus is -1; name each GPU once"),
        ({"max_gpu_bytes": 1 << 32}, "max_gpu_bytes is 4294967296, and `device` is auto; set it to gpu"),
        ({"max_gpu_bytes": 1 << 32, "device": "cpu"}, "max_gpu_bytes is 4294967296, and `device` is cpu"),
        ({"max_gpu_bytes": 1 << 32, "accelerator": "tensorrt"}, "tensorrt, which takes memory without a limit"),
        ({"max_gpu_bytes": 4, "device": "gpu"}, "max_gpu_bytes is 4; it must be from 1048576"),
    ],
)
def test_gpus_that_make_no_sense(options: dict[str, Any], text: str) -> None:
    """Each is refused, and the error says what to do."""
    with pytest.raises(ExportError, match=re.escape(text)):
        Serving(**options)


def test_processes_of_the_first_step() -> None:
    """They are the first step's, and not the encoder's."""
    configs = deployment.configs(marked.deployment("m", serving=Serving(preprocess_instances=4)), 1)
    assert configs["m_preprocess"].instance_group[0].count == 4
    assert configs["m_pooled_encoder"].instance_group[0].count == 1


@pytest.mark.parametrize(
    ("device", "precision", "count"),
    [("auto", "fp32", 1), ("auto", "int8", 2), ("cpu", "fp32", 2), ("gpu", "fp32", 1), ("gpu", "fp16", 1)],
)
def test_two_instances_for_a_cpu(device: Any, precision: str, count: int) -> None:
    """Where an export is for a CPU, one instance holds the next batch."""
    made = marked.deployment("m", precision=precision, serving=Serving(device=device))
    assert deployment.configs(made, 1)["m_pooled_encoder"].instance_group[0].count == count


@pytest.mark.parametrize(("device", "shared"), [("auto", True), ("cpu", True), ("gpu", False)])
def test_instances_that_share_a_session(device: str, shared: bool) -> None:
    """On a GPU, each instance has a session of its own, so that one copies while the other computes."""
    config = encoder(device=device, instances=2)
    assert (config.parameters["share_session_between_instances"].string_value == "true") is shared


def test_queues_without_limits() -> None:
    """Each limit can be left out; with neither there is no policy, but dynamic batching, in both steps."""
    configs = deployment.configs(marked.deployment("m", serving=Serving(max_queue_size=0, queue_timeout_ms=0)), 1)
    for step in (configs["m_pooled_encoder"], configs["m_preprocess"]):
        assert step.HasField("dynamic_batching")
        assert not step.dynamic_batching.HasField("default_queue_policy")
    timeout = encoder(max_queue_size=0).dynamic_batching.default_queue_policy
    assert (timeout.max_queue_size, timeout.default_timeout_microseconds) == (0, 60_000_000)
    assert timeout.allow_timeout_override
    size = encoder(queue_timeout_ms=0).dynamic_batching.default_queue_policy
    assert (size.max_queue_size, size.default_timeout_microseconds, size.allow_timeout_override) == (256, 0, False)


@pytest.mark.parametrize(
    ("options", "preferred"),
    [
        ({}, []),
        ({"precision": "fp16"}, []),
        ({"device": "gpu", "precision": "int8"}, []),
        ({"device": "cpu"}, [8]),
        ({"precision": "int8"}, [8]),
        ({"accelerator": "openvino"}, [8]),
    ],
)
def test_batches_on_a_cpu_are_small(options: dict[str, Any], preferred: list[int]) -> None:
    """Where it is sure to be a CPU: there an image takes as long in a batch of 8 as in one of 32."""
    assert list(encoder(**options, max_batch_size=32).dynamic_batching.preferred_batch_size) == preferred
    assert not encoder(**options, max_batch_size=8).dynamic_batching.preferred_batch_size


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"device": "gpu"}, [1, 2, 4, 8]),
        ({"device": "cpu"}, [1]),
        ({"accelerator": "tensorrt", "precision": "fp16"}, [1, 2, 4, 8]),
        ({"device": "gpu", "warmup": (8, 3)}, [3, 8]),
        ({"warmup": ()}, []),
    ],
)
def test_warm_up_sizes(options: dict[str, Any], sizes: list[int]) -> None:
    """On a GPU each power of two, on a CPU one image; or what is asked for."""
    samples = encoder(**options).model_warmup
    assert [sample.batch_size for sample in samples] == sizes
    assert all(list(sample.inputs["pixels"].dims) == [4, 4, 3] for sample in samples)


def test_tensorrt() -> None:
    """On a GPU, in the export's precision, with one engine for all batch sizes, kept under a name of its own."""
    config = encoder(accelerator="tensorrt", precision="fp16", tensorrt_cache="/cache")
    (tensorrt,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert tensorrt.name == "tensorrt"
    assert config.instance_group[0].kind == GROUP.KIND_GPU
    parameters = dict(tensorrt.parameters)
    assert parameters.pop("trt_engine_cache_prefix").startswith("v1-marked-pooled-")
    assert parameters == {
        "precision_mode": "FP16",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "trt_layer_norm_fp32_fallback": "1",
        "trt_profile_max_shapes": "pixels:8x4x4x3",
        "trt_profile_min_shapes": "pixels:1x4x4x3",
        "trt_profile_opt_shapes": "pixels:8x4x4x3",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/cache",
    }


def test_tensorrt_in_float32() -> None:
    """What TensorRT leaves to the CUDA provider is computed without TF32."""
    accelerators = encoder(accelerator="tensorrt").optimization.execution_accelerators.gpu_execution_accelerator
    assert [each.name for each in accelerators] == ["tensorrt", "cuda"]
    assert accelerators[0].parameters["precision_mode"] == "FP32"
    assert dict(accelerators[1].parameters) == {"use_tf32": "0"}


def test_openvino() -> None:
    """On the CPU."""
    config = encoder(accelerator="openvino")
    assert [each.name for each in config.optimization.execution_accelerators.cpu_execution_accelerator] == ["openvino"]
    assert config.instance_group[0].kind == GROUP.KIND_CPU


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu'; choose one of auto, cpu, gpu"),
        ({"accelerator": "xla"}, "accelerator is 'xla'; choose one of tensorrt, openvino"),
        (
            {"device": "gpu", "accelerator": "openvino"},
            "openvino, which runs on a CPU, and `device` is gpu; leave out one",
        ),
        (
            {"device": "cpu", "accelerator": "tensorrt"},
            "tensorrt, which runs on a GPU, and `device` is cpu; leave out one",
        ),
        ({"instances": 0}, "instances is 0; it must be from 1 to 64"),
        ({"max_queue_delay_us": -1}, "max_queue_delay_us is -1; it must be from 0"),
        ({"max_queue_size": -1}, "max_queue_size is -1; it must be from 0"),
        ({"queue_timeout_ms": -1}, "queue_timeout_ms is -1; it must be from 0"),
        ({"max_batch_size": 8, "warmup": (1, 16)}, "warmup has the batch size 16; it must be from 1 to 8"),
        ({"accelerator": "tensorrt", "tensorrt_cache": ""}, "tensorrt_cache is empty"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    """With the option, its value, and what would do."""
    with pytest.raises(ExportError) as caught:
        ExportOptions(**options)
    assert message in str(caught.value)


def test_a_list_of_sizes_that_is_none(tmp_path: Path) -> None:
    """A mistake in --warmup is wrong usage."""
    done = CliRunner().invoke(app, ["export", "--warmup", "1;8", "--repository", str(tmp_path)], env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert "write it as 1,8,32" in " ".join(done.stderr.split())


def test_every_size_has_run_when_the_model_is_ready(tmp_path: Path) -> None:
    """The embedded onnxruntime backend runs the warm-up in each instance; the statistics show it before any request."""
    serving = Serving(device="cpu", instances=2, warmup=(1, 4, 8))
    marked.export(tmp_path, "m", 1, serving=serving)
    with TritonServer(tmp_path) as server, triton.InferenceServerClient(server.grpc_address) as client:
        (statistics,) = client.get_inference_statistics("m_pooled_encoder").model_stats
        runs = {batch.batch_size: batch.compute_infer.count for batch in statistics.batch_stats}
        assert {size: runs.get(size, 0) >= 2 for size in serving.warmup or ()} == {1: True, 4: True, 8: True}


def _files(repository: Path) -> dict[str, bytes]:
    return {path.relative_to(repository).as_posix(): path.read_bytes() for path in repository.rglob("*.*")}


def _export(folder: Path, model: str, hash_seed: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Exports with the command, in a folder; returns the files but for the manifest, and that."""
    flags = ["--l2-normalize", "--device", "cpu", "--instances", "2", "--warmup", "1,2"]
    command = [str(Path(sys.executable).with_name("vitriton")), "export", model, "--repository", "r", *flags]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    files = _files(folder / "r")
    files.pop("tiny-vit_unpooled/1/manifest.json")
    return files, json.loads(files.pop("tiny-vit_pooled/1/manifest.json"))


@pytest.mark.long
def test_the_same_export_gives_the_same_bytes(tiny_vit_checkpoint: Path, tmp_path: Path) -> None:
    """From two folders and two processes all files but the manifest are equal; that has what it takes to repeat it."""
    folders = tmp_path / "one", tmp_path / "two" / "deeper"
    for folder in folders:
        shutil.copytree(tiny_vit_checkpoint, folder / "tiny-vit")
    first, manifest = _export(folders[0], "tiny-vit", "1")
    second, other_manifest = _export(folders[1], str(folders[1] / "tiny-vit"), "2")
    modules = list(Path(preprocessing.__file__).parent.glob("*.py"))  # are copied beside the eleven others
    assert len(first) == 11 + len(modules)
    assert first == second
    assert not [name for name, content in first.items() if str(tmp_path).encode() in content]
    assert manifest["files"] == other_manifest["files"]
    assert manifest["options"] | {"model": ""} == other_manifest["options"] | {"model": ""}
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in manifest["options"].items()}
    again = ExportOptions(**options)
    asked = {"l2_normalize": True, "device": "cpu", "instances": 2, "warmup": (1, 2)}
    checkpoint = str(folders[0] / "tiny-vit")  # whole: it may be repeated from another folder
    assert again == ExportOptions(model=checkpoint, repository="r", **asked)
