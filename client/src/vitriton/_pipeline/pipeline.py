"""transformers.pipeline(), with the model on a server: same parameters, same results.

What it follows is in transformers 5: `pipeline` (pipelines/__init__.py), `Pipeline` (pipelines/base.py),
`PipelineIterator` (pipelines/pt_utils.py), and what the modules of the two tasks name.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from vitriton._keywords import suggests_keywords
from vitriton._options import in_options
from vitriton._pipeline import checks, devices, tasks, tokenizing
from vitriton._pipeline.feature_extraction import FeatureExtractionPipeline
from vitriton._pipeline.image_feature_extraction import ImageFeatureExtractionPipeline
from vitriton._pipeline.parameters import CallParameters
from vitriton._pipeline.served import ClientFactory, find

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vitriton._pipeline.arguments import PipelineArguments

_LOG = logging.getLogger("vitriton")


def _in_client_options(name: str) -> str | None:
    """What to write for an argument of `Client` that was given to `pipeline` itself; None for any other name."""
    from vitriton._client import Client  # it is imported when a pipeline is made

    if in_options(name):
        return f"client_options={{'options': Options({name}=...)}}"
    return f"client_options={{{name!r}: ...}}" if name in inspect.signature(Client).parameters else None


@overload
def pipeline(
    task: Literal["image-feature-extraction"], model: Any = None, **arguments: Unpack[PipelineArguments]
) -> ImageFeatureExtractionPipeline: ...


@overload
def pipeline(
    task: Literal["feature-extraction"], model: Any = None, **arguments: Unpack[PipelineArguments]
) -> FeatureExtractionPipeline: ...


@overload
def pipeline(
    task: str | None = None, model: Any = None, **arguments: Unpack[PipelineArguments]
) -> ImageFeatureExtractionPipeline | FeatureExtractionPipeline: ...


@partial(suggests_keywords, elsewhere=_in_client_options)
def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    video_processor: Any = None,
    processor: Any = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = "auto",
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    pipeline_class: Any = None,
    *,
    url: str | Sequence[str] | None = None,
    client_options: Mapping[str, Any] | None = None,
    allow_served_pooling: bool = False,
    pool: bool | None = None,
    return_tensors: bool | str | None = None,
    timeout: float | None = None,
    image_processor_kwargs: Mapping[str, Any] | None = None,
    truncation: bool | str | None = None,
    tokenize_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    torch_dtype: Any = None,
    framework: str | None = None,
    binary_output: bool = False,
    args_parser: Any = None,
    code_revision: str | None = None,
    local_files_only: bool = False,
) -> ImageFeatureExtractionPipeline | FeatureExtractionPipeline:
    """A drop-in replacement for transformers' function of this name, with a model on a Triton server.

    All parameters except `url`, `client_options` and `allow_served_pooling` are those of transformers. An argument that
    cannot affect a loaded model (its device, its loading), or concerns only another task, is ignored, with a line in
    the log (INFO); one that contradicts the model is an error. "Coming from transformers' pipeline" in the
    documentation describes each parameter.

    Args:
        task: the task: "image-feature-extraction" or "feature-extraction" (of texts); None means what the model does,
            images first.
        model: the name of an export, or the hub id of its checkpoint; None means transformers' default.
        config: the id of the exported checkpoint, or None.
        tokenizer: the id of the exported checkpoint, or None; ignored for images, as in transformers.
        feature_extractor: the image processor, under its old name; see image_processor.
        image_processor: an id, or a PIL image processor with the settings of the export; or None. It is ignored for
            texts, as are feature_extractor, processor, image_processor_kwargs and timeout.
        video_processor: an ignored argument, as in transformers.
        processor: the image processor, or a processor that contains it; see image_processor.
        revision: the exported commit, with at least 7 digits; or None.
        use_fast: an ignored argument about tokenizers.
        token: the token of the Hugging Face hub; ignored, and never sent to the server, whose own token goes into
            client_options.
        device: the number, the name or the torch.device of a device, or None; checked, and then ignored: the export
            and the server decide where the model runs.
        device_map: a device, a plan such as "auto", or a dict; checked, and then ignored, as device.
        dtype: the precision of the served model, "auto" or None. With float16, tensors are float16.
        trust_remote_code: an ignored argument.
        model_kwargs: the arguments for loading weights; ignored, unless one would change the model, which is an error.
        pipeline_class: the class of transformers for the task, or None.
        url: the server's address, in the form that `Client` takes.
        client_options: more arguments of `Client`: tls, token, headers, timeout_s (of each request), options, ...
        allow_served_pooling: whether pool=True may return the served embedding if it is not the model's pooler_output.
        pool: whether calls return the pooled output instead of all tokens.
        return_tensors: whether calls return torch tensors (True or "pt") instead of lists.
        timeout: the time limit for fetching one URL, in seconds; None means the client's `url_timeout_s`.
        image_processor_kwargs: the settings of the image processor, which must be those of the export.
        truncation: whether a text with more tokens than the model takes is cut instead of refused; ignored for images.
        tokenize_kwargs: the arguments for the tokenizer, which must say what the export does; ignored for images.
        batch_size: an ignored argument: the server forms the batches.
        num_workers: an ignored argument: the client reads ahead with its `read_threads`.
        torch_dtype: the older name of dtype.
        framework: the framework: "pt" or None.
        binary_output: an ignored argument, kept as an attribute, as in transformers.
        args_parser: an ignored argument, as in transformers.
        code_revision: the exported commit, or None; see revision.
        local_files_only: an ignored argument.

    Returns:
        The pipeline, to call with images or texts as transformers' own.

    Raises:
        PipelineMismatch: (a ContractMismatch and a ValueError) an argument contradicts the served model.
        ModelNotFound: the server does not have the model.
        VitritonError: the server does not answer; see `Client.embed`.
        ValueError, TypeError: an argument is invalid.
        ImportError: return_tensors is set, and torch is not installed.
    """
    arguments = dict(locals())  # before there are other variables
    asked = checks.read_task(task)
    checks.check_framework(framework)
    checks.check_pipeline_class(pipeline_class, asked)
    checks.check_batching(batch_size, num_workers)
    checks.check_switch("allow_served_pooling", allow_served_pooling)
    devices.check_device(device)
    devices.check_device_map(device_map)
    defaults = CallParameters().changed(pool=pool, return_tensors=return_tensors, timeout=timeout)
    clients = ClientFactory(url, client_options)
    served = find(_given_model(asked, model), clients, asked)
    does = checks.served_task(served, asked)
    checks.check_source(served, "config", config)
    checks.check_revision(served, "revision", revision)
    checks.check_revision(served, "code_revision", code_revision)
    checks.check_dtype(served, "dtype", dtype)
    checks.check_dtype(served, "torch_dtype", torch_dtype)
    checks.check_model_kwargs(served, model_kwargs)
    made: type[ImageFeatureExtractionPipeline | FeatureExtractionPipeline]
    if does is tasks.IMAGES:
        checks.check_processor(served, "image_processor", image_processor)
        checks.check_processor(served, "feature_extractor", feature_extractor)
        checks.check_processor(served, "processor", processor)
        checks.check_processor_kwargs(served, image_processor_kwargs)
        made = ImageFeatureExtractionPipeline
    else:
        checks.check_source(served, "tokenizer", tokenizer)
        settings = tokenizing.given_settings(truncation, tokenize_kwargs)
        tokenizing.check_tokenizing(served, settings)
        made, defaults = FeatureExtractionPipeline, replace(defaults, tokenizing=settings, timeout=None)
    ignored = checks.ignored(arguments, does)
    if ignored:
        why = "as in transformers, or as the server decides how and where the model runs"
        _LOG.info("ignored, %s: %s", why, ", ".join(ignored))
    return made(
        served,
        clients,
        defaults,
        dtype=checks.result_dtype(dtype, torch_dtype, model_kwargs),
        allow_served_pooling=allow_served_pooling,
        binary_output=binary_output,
    )


def _given_model(task: tasks.PipelineTask | None, model: Any) -> str:
    if model is not None:
        return checks.model_name(model)
    if task is None:
        raise ValueError("neither task nor model is given; give the model, by the name that it was exported under")
    _LOG.warning("no model is given; using the default of transformers, %s", task.default_model)
    return task.default_model
