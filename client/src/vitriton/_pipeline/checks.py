"""Checks of a pipeline's arguments against the served model. Each error names both sides, and what to do.

The arguments are those of transformers.pipeline() and of its ImageFeatureExtractionPipeline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitriton._errors import PipelineMismatch
from vitriton._options import check_count
from vitriton._pipeline.processor import check_settings
from vitriton._pipeline.served import ServedModel

TASK = "image-feature-extraction"

_PRECISIONS = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16"}

# Arguments of from_pretrained about how and where the weights are loaded; they do not change what the model computes.
_LOADING = frozenset(
    {
        "attn_implementation",
        "cache_dir",
        "device_map",
        "force_download",
        "local_files_only",
        "low_cpu_mem_usage",
        "max_memory",
        "offload_folder",
        "offload_state_dict",
        "proxies",
        "token",
        "trust_remote_code",
        "use_safetensors",
        "weights_only",
    }
)

_EXPORT = "export the model with it, under another name"


def check_task(task: str | None) -> None:
    """Raises ValueError unless `task` is None or the pipeline's task."""
    if task not in (None, TASK):
        raise ValueError(f"task is {task!r}; this pipeline does {TASK!r} only")


def model_name(model: Any) -> str:
    """The name in the argument `model`.

    Raises:
        TypeError, ValueError: `model` cannot be the name of a served model.
    """
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        raise TypeError(
            f"model has the type {type(model).__name__}; weights are not sent to a server: export them with "
            "`vitriton export`, and give the name of the export"
        )
    if not model:
        raise ValueError("model is empty; give the name of the export, or the hub id of the exported checkpoint")
    return model


def check_source(served: ServedModel, parameter: str, value: Any) -> None:
    """Raises PipelineMismatch unless `value` is None or a name of the served model."""
    if value is None or (isinstance(value, str) and value in (served.name_or_path, served.name)):
        return
    given = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    has = f"was exported with that of {served.name_or_path or served.name}"
    raise _mismatch(served, f"{parameter} is {given}", has, f"leave out {parameter}")


def check_revision(served: ServedModel, parameter: str, revision: str | None) -> None:
    """Raises PipelineMismatch unless `revision` is None or the exported commit, with at least 7 digits."""
    has = served.revision
    if revision is None or (has is not None and len(revision) >= 7 and has.startswith(revision)):
        return
    made_of = f"commit {has}" if has else "a folder, or from a commit that it does not name"
    raise _mismatch(
        served,
        f"{parameter} is {revision!r}",
        f"was exported from {made_of}",
        f"leave out {parameter}, or export that revision under another name",
    )


def check_dtype(served: ServedModel, parameter: str, dtype: Any) -> None:
    """Raises PipelineMismatch unless `dtype` is None, "auto" or the precision of the served model."""
    if dtype is None or dtype == "auto":
        return
    name = _dtype_name(dtype)
    if _PRECISIONS.get(name, name) != served.precision:
        raise _mismatch(
            served,
            f"{parameter} is {name}",
            f"computes in {served.precision}",
            f"leave out {parameter}, or {_EXPORT} (--precision)",
        )


def result_dtype(dtype: Any, torch_dtype: Any, model_kwargs: Mapping[str, Any] | None) -> np.dtype[Any]:
    """The dtype of the tensors: the reference returns those of the model's dtype; "auto" is float32 here."""
    loading = model_kwargs or {}
    asked = {_dtype_name(value) for value in (dtype, torch_dtype, loading.get("dtype"), loading.get("torch_dtype"))}
    return np.dtype(np.float16 if asked & {"float16", "half"} else np.float32)


def check_model_kwargs(served: ServedModel, model_kwargs: Mapping[str, Any] | None) -> None:
    """Raises PipelineMismatch if one of `model_kwargs` would change what the model computes."""
    for name, value in (model_kwargs or {}).items():
        parameter = f"model_kwargs[{name!r}]"
        if name in ("dtype", "torch_dtype"):
            check_dtype(served, parameter, value)
        elif name == "revision":
            check_revision(served, parameter, value)
        elif name not in _LOADING:
            raise _mismatch(
                served, f"{parameter} is {value!r}", "was exported without it", f"leave it out, or {_EXPORT}"
            )


def check_processor(served: ServedModel, parameter: str, processor: Any) -> None:
    """Raises PipelineMismatch unless `processor` is None or preprocesses images as the served model does.

    Args:
        served: the served model.
        parameter: the name of the parameter, for messages.
        processor: the argument: an id, an image processor, or a processor that contains one.
    """
    if processor is None or isinstance(processor, str):
        check_source(served, parameter, processor)
        return
    processor = getattr(processor, "image_processor", None) or processor
    kind = type(processor)
    bases = {base.__name__ for base in kind.__mro__}
    if "BaseImageProcessor" not in bases or not kind.__module__.startswith("transformers."):
        raise _mismatch(
            served,
            f"{parameter} is a {kind.__module__}.{kind.__name__}",
            "prepares images as an image processor of transformers does, which it cannot be compared with",
            f"leave out {parameter}",
        )
    if bases & {"TorchvisionBackend", "BaseImageProcessorFast"}:
        raise _mismatch(
            served,
            f"{parameter} is a {kind.__name__}, which resizes with torchvision",
            "resizes with Pillow, which gives slightly other pixels",
            f"leave out {parameter}, or take the processor with backend='pil' for both",
        )
    check_settings(served, f"{parameter} {kind.__name__}", processor)


def check_processor_kwargs(served: ServedModel, kwargs: Mapping[str, Any] | None) -> None:
    """Raises PipelineMismatch unless all of `kwargs` agree with the served model."""
    if kwargs:
        check_settings(served, "image_processor_kwargs", dict(kwargs))


def check_pipeline_class(pipeline_class: Any) -> None:
    """Raises ValueError for the user's own class, whose code would have to run beside the model."""
    if pipeline_class is not None and getattr(pipeline_class, "__name__", "") != "ImageFeatureExtractionPipeline":
        raise ValueError(
            f"pipeline_class is {pipeline_class!r}; its code cannot run on the server. Leave it out, and work on what "
            "this pipeline returns"
        )


def check_framework(framework: str | None) -> None:
    """Raises ValueError for a framework whose tensors transformers no longer returns."""
    if framework not in (None, "pt"):
        raise ValueError(f"framework is {framework!r}; tensors are torch's: give 'pt', or leave it out")


def check_batching(batch_size: int | None, num_workers: int | None) -> None:
    """Raises ValueError for a number that the reference refuses."""
    if batch_size is not None:
        check_count("batch_size", batch_size, 1, 2**31)
    if num_workers is not None:
        check_count("num_workers", num_workers, 0, 2**31)


def check_pool(served: ServedModel) -> None:
    """Raises PipelineMismatch unless the served embedding is the pooler_output that pool=True means."""
    if served.pooling == "pooler" and not served.l2_normalize:
        return
    has = f"pools by {served.pooling}" if served.pooling else "does not say how it pools"
    normalized = " and scales to length 1" if served.l2_normalize else ""
    why = "" if served.pooling == "pooler" else " (a checkpoint without a trained pooler has none but random weights)"
    raise _mismatch(
        served,
        f"pool=True means the pooler_output of the model{why}",
        has + normalized,
        "take that with allow_served_pooling=True or with vitriton.Client.embed",
    )


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _mismatch(served: ServedModel, asked: str, has: str, remedy: str) -> PipelineMismatch:
    return PipelineMismatch(f"{asked}, and {served} {has}; {remedy}", address=served.address, model=served.name)
