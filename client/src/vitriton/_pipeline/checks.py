"""Checks of a pipeline's arguments against the served model. Each error names both sides, and what to do.

The arguments are those of transformers.pipeline() and of its pipelines for the tasks in `tasks`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitriton._errors import PipelineMismatch
from vitriton._options import check_count
from vitriton._pipeline.devices import check_device_map
from vitriton._pipeline.processor import check_settings
from vitriton._pipeline.served import ServedModel
from vitriton._pipeline.tasks import IMAGES, TASKS, PipelineTask
from vitriton._repository.names import A_PATH, is_path, kind_of

_PRECISIONS = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16"}
_EXPORTED = ("fp32", "fp16", "int8", "int8-fast")  # the values of --precision
_WHY = {
    "cls": " (of random weights if the checkpoint has no trained pooler; the CLS token in models such as DINOv2)",
}
_COMMIT = re.compile(r"[0-9a-f]{7,40}")

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

# Arguments that have no effect in any task, with their defaults.
_IGNORED: Mapping[str, Any] = {
    "video_processor": None,
    "use_fast": True,
    "token": None,
    "device": None,
    "device_map": None,
    "trust_remote_code": None,
    "batch_size": None,
    "num_workers": None,
    "args_parser": None,
    "local_files_only": False,
}

# Attributes of transformers' pipeline.
_ELSEWHERE = frozenset(
    {
        "device",
        "dtype",
        "feature_extractor",
        "forward",
        "framework",
        "generation_config",
        "image_processor",
        "modelcard",
        "postprocess",
        "preprocess",
        "processor",
        "push_to_hub",
        "save_pretrained",
        "tokenizer",
        "torch_dtype",
        "video_processor",
    }
)
_OF_A_CALL = frozenset(
    {
        "batch_size",
        "image_processor_kwargs",
        "num_workers",
        "pool",
        "return_tensors",
        "timeout",
        "tokenize_kwargs",
        "truncation",
    }
)


def read_task(task: str | None) -> PipelineTask | None:
    """The task of a name; raises ValueError for a task that is not in `tasks`. None stays None."""
    if task is None:
        return None
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; a pipeline of vitriton does {' and '.join(map(repr, TASKS))} only")
    return TASKS[task]


def served_task(served: ServedModel, asked: PipelineTask | None) -> PipelineTask:
    """The task that the served model does: `asked`, or the first that it can do if none is asked for.

    Raises:
        PipelineMismatch: the model does another task.
    """
    can_do = [task for task in TASKS.values() if task.tower in served.towers]
    if asked is None:
        return can_do[0]
    if asked in can_do:
        return asked
    has = f"embeds {' and '.join(f'{task.tower}s' for task in can_do)}"
    raise _mismatch(served, f"task is {asked.name!r}", has, f"give the task {can_do[0].name!r}")


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
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    given = f"is {value!r}" if isinstance(value, str) else f"has the type {type(value).__name__}"
    hint = f" (it {A_PATH})" if isinstance(value, str) and is_path(value) else ""
    has = f"was exported with that of {served.name_or_path or served.name}"
    raise _mismatch(served, f"{parameter} {given}", has, f"leave out {parameter}{hint}")


def check_revision(served: ServedModel, parameter: str, revision: str | None) -> None:
    """Raises PipelineMismatch unless `revision` is None or the exported commit, with at least 7 digits."""
    has = served.revision
    if revision is None or (has is not None and len(revision) >= 7 and has.startswith(revision)):
        return
    made_of = f"was exported from commit {has}" if has else "does not name the commit that it was exported from"
    if has is None:
        remedy = f"leave out {parameter}"
    elif _COMMIT.fullmatch(revision):
        remedy = f"leave out {parameter}, or export that commit under another name"
    else:
        remedy = f"leave out {parameter}, or give a commit (7 digits or more): exports do not record branches and tags"
    raise _mismatch(served, f"{parameter} is {revision!r}", made_of, remedy)


def check_dtype(served: ServedModel, parameter: str, dtype: Any) -> None:
    """Raises PipelineMismatch unless `dtype` is None, "auto" or the precision of the served model."""
    if dtype is None or dtype == "auto":
        return
    name = _dtype_name(dtype)
    precision = _PRECISIONS.get(name, name)
    if precision == served.precision:
        return
    if precision in _EXPORTED:
        remedy = f"leave out {parameter}, or export the model with --precision {precision}, under another name"
    else:
        remedy = f"leave out {parameter}: exports compute in {', '.join(_EXPORTED)}"
    computes = f"computes in {served.precision}" if served.precision else "does not say its precision"
    raise _mismatch(served, f"{parameter} is {name}", computes, remedy)


def result_dtype(dtype: Any, torch_dtype: Any, model_kwargs: Mapping[str, Any] | None) -> np.dtype[Any]:
    """The dtype of the tensors: transformers returns those of the model's dtype; "auto" is float32 here."""
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
        elif name == "device_map":
            check_device_map(value, parameter)
        elif name not in _LOADING:
            raise _mismatch(
                served,
                f"{parameter} is {value!r}",
                "was exported without it",
                "leave it out: arguments of from_pretrained cannot change a served model",
            )


def check_processor(served: ServedModel, parameter: str, processor: Any) -> None:
    """Raises PipelineMismatch unless `processor` is None or preprocesses images as the served model does.

    Args:
        served: the served model.
        parameter: the name of the parameter, for messages.
        processor: the argument: an id, an image processor, or a processor that contains one.
    """
    if processor is None or isinstance(processor, (str, os.PathLike)):
        check_source(served, parameter, processor)
        return
    processor = getattr(processor, "image_processor", None) or processor
    kind = type(processor)
    bases = {base.__name__ for base in kind.__mro__}
    if "BaseImageProcessor" not in bases or not kind.__module__.startswith("transformers."):
        raise _mismatch(
            served,
            f"{parameter} has the type {kind.__qualname__}",
            "can be compared with image processors of transformers alone",
            f"leave out {parameter}, or give one of those",
        )
    if bases & {"TorchvisionBackend", "BaseImageProcessorFast"}:
        raise _mismatch(
            served,
            f"{parameter} has the type {kind.__name__}, which resizes with torchvision",
            "resizes with Pillow, which gives slightly other pixels",
            f"leave out {parameter}, or take the processor with backend='pil' for both",
        )
    check_settings(served, f"{parameter} {kind.__name__}", processor)


def check_processor_kwargs(served: ServedModel, kwargs: Mapping[str, Any] | None) -> None:
    """Raises PipelineMismatch unless all of `kwargs` agree with the served model."""
    if kwargs:
        check_settings(served, "image_processor_kwargs", dict(kwargs))


def check_pipeline_class(pipeline_class: Any, task: PipelineTask | None) -> None:
    """Raises ValueError for the user's own class, whose code would have to run beside the model."""
    own = [each.class_name for each in TASKS.values() if task in (None, each)]
    if pipeline_class is not None and getattr(pipeline_class, "__name__", "") not in own:
        raise ValueError(
            f"pipeline_class is {pipeline_class!r}; its code cannot run on the server. Leave it out, and work on what "
            "this pipeline returns"
        )


def check_framework(framework: str | None) -> None:
    """Raises ValueError for a framework whose tensors transformers no longer returns."""
    if framework not in (None, "pt"):
        raise ValueError(f"framework is {framework!r}; tensors are torch's: give 'pt', or leave it out")


def check_batching(batch_size: int | None, num_workers: int | None) -> None:
    """Raises ValueError for a number that transformers refuses."""
    if batch_size is not None:
        check_count("batch_size", batch_size, 1, 2**31)
    if num_workers is not None:
        check_count("num_workers", num_workers, 0, 2**31)


def check_switch(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is True, False, or None for an argument that is not given."""
    if not isinstance(value, (bool, type(None))):
        raise TypeError(f"{name} is {value!r}; it must be True or False")


def ignored(arguments: Mapping[str, Any], task: PipelineTask) -> list[str]:
    """The names of the arguments that are given, and have no effect in a task."""
    given = [name for name, default in {**task.ignored, **_IGNORED}.items() if arguments[name] is not default]
    loading = [f"model_kwargs[{name!r}]" for name in arguments["model_kwargs"] or () if name in _LOADING]
    return given + loading


def no_attribute(class_name: str, name: str) -> str:
    """The text of the AttributeError for an attribute that a pipeline of this class does not have."""
    if name in _OF_A_CALL:
        return f"a pipeline has no attribute {name!r}; it is an argument of vitriton.pipeline and of a call"
    if name in _ELSEWHERE:
        return (
            f"a pipeline of vitriton has no attribute {name!r}: the model, its device and its preprocessing are on a "
            "server; see the attribute model, which describes the served model"
        )
    return f"{class_name!r} object has no attribute {name!r}"


def missing_output(served: ServedModel, task: PipelineTask, *, pool: bool) -> PipelineMismatch | None:
    """The error for an output that the served model does not have; None if it has the output."""
    if any(output.kind == kind_of(pool, task.tower) for output in served.outputs):
        return None
    asked = "pool is True" if pool else "pool is False, the default, which returns all tokens"
    has = f"has only the {'unpooled' if pool else 'pooled'} output"
    return _mismatch(served, asked, has, f"pass pool={not pool}, or export the model with --outputs both")


def check_pool(served: ServedModel, task: PipelineTask) -> None:
    """Raises PipelineMismatch unless the served embedding is the pooler_output that pool=True means."""
    if served.pooling == "pooler" and not served.l2_normalize:
        return
    has = f"pools by {served.pooling}" if served.pooling else "does not say how it pools"
    normalized = " and scales to length 1" if served.l2_normalize else ""
    why = _WHY.get(served.pooling or "", "") if task is IMAGES else ""
    remedy = "to get the served vectors, give the pipeline allow_served_pooling=True, or call vitriton.Client"
    raise _mismatch(
        served,
        f"pool=True means the model's pooler_output{why}",
        has + normalized,
        f"{remedy}.{task.method}",
    )


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _mismatch(served: ServedModel, asked: str, has: str, remedy: str) -> PipelineMismatch:
    return PipelineMismatch(f"{asked}, and {served} {has}; {remedy}", address=served.address, model=served.name)
