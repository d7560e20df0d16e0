"""The arguments of `vitriton.pipeline` after the first two, for its type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class PipelineArguments(TypedDict, total=False):
    """What `vitriton.pipeline` takes for each of its tasks; its docstring describes them."""

    config: Any
    tokenizer: Any
    feature_extractor: Any
    image_processor: Any
    video_processor: Any
    processor: Any
    revision: str | None
    use_fast: bool
    token: str | bool | None
    device: Any
    device_map: Any
    dtype: Any
    trust_remote_code: bool | None
    model_kwargs: Mapping[str, Any] | None
    pipeline_class: Any
    url: str | Sequence[str] | None
    client_options: Mapping[str, Any] | None
    allow_served_pooling: bool
    pool: bool | None
    return_tensors: bool | str | None
    timeout: float | None
    image_processor_kwargs: Mapping[str, Any] | None
    truncation: bool | str | None
    tokenize_kwargs: Mapping[str, Any] | None
    batch_size: int | None
    num_workers: int | None
    torch_dtype: Any
    framework: str | None
    binary_output: bool
    args_parser: Any
    code_revision: str | None
    local_files_only: bool
