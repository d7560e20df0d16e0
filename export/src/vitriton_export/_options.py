"""What a caller asks of an export."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vitriton_export._errors import ExportError

DEFAULT_MODEL = "google/vit-base-patch16-224"

Pooling = Literal["auto", "pooler", "cls", "mean", "projection"]
Outputs = Literal["both", "pooled", "unpooled"]
Precision = Literal["fp32", "fp16"]
Kind = Literal["pooled", "unpooled"]

MAX_IMAGE_SIZE = 4096

# Triton takes a model's name from its folder and puts it into URLs and metric labels.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """An export, as asked for.

    Attributes:
        model: a Hugging Face hub id, or a folder with a checkpoint that `save_pretrained` wrote.
        revision: branch, tag or commit of a hub id.
        repository: the Triton model repository to write to; it is made if it is missing.
        name: of the model in the repository; by default the last part of the model's id.
        pooling: how the embedding is made; "auto" is the trained or parameter-free pooler, else CLS, else mean.
        l2_normalize: divide the embedding by its Euclidean length, in the graph.
        outputs: which ensembles to write.
        max_batch_size: the most images that the server puts into one batch.
        precision: of the encoder's weights and arithmetic; the outputs are float32 in any case.
        allow_untrained_pooler: ship a pooler whose weights are random, for `pooling="pooler"`.
        max_single_file_bytes: weights over this size go to a file beside the graph (protobuf ends at 2 GiB).
        image_size: side of the square that the model gets, in pixels; by default the image processor's own.
        image_processor_kwargs: settings of the image processor that replace the checkpoint's, as JSON or as a mapping.
    """

    model: str = DEFAULT_MODEL
    revision: str | None = None
    repository: str | os.PathLike[str] = "model_repository"
    name: str | None = None
    pooling: Pooling = "auto"
    l2_normalize: bool = False
    outputs: Outputs = "both"
    max_batch_size: int = 32
    precision: Precision = "fp32"
    allow_untrained_pooler: bool = False
    max_single_file_bytes: int = 1_900_000_000
    image_size: int | None = None
    image_processor_kwargs: str | Mapping[str, Any] = "{}"

    def __post_init__(self) -> None:
        """Refuses values that no export can have."""
        for field, choices in (("pooling", Pooling), ("outputs", Outputs), ("precision", Precision)):
            value = getattr(self, field)
            if value not in get_args(choices):
                raise ExportError(f"{field} is {value!r}; choose one of {', '.join(get_args(choices))}")
        if not 1 <= self.max_batch_size <= 1024:
            raise ExportError(f"max_batch_size is {self.max_batch_size}; it must be from 1 to 1024")
        if self.image_size is not None and not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ExportError(f"image_size is {self.image_size}; it must be from 1 to {MAX_IMAGE_SIZE}")
        settings = self.image_processor_settings
        if self.image_size is not None and settings.keys() & {"size", "crop_size", "pad_size"}:
            raise ExportError("image_size is given, and image_processor_kwargs has a size as well; give one of them")
        if not self.model.strip():
            raise ExportError("model is empty; give a Hugging Face hub id or a checkpoint's folder")
        if not _NAME.fullmatch(self.deployed_name):
            raise ExportError(
                f"Triton cannot take the model name {self.deployed_name!r}: use letters, digits, '.', '_' and '-', at "
                "most 128, starting with a letter or digit; give another with --name"
            )
        if not os.fspath(self.repository):
            raise ExportError("repository is empty; name a folder with --repository")
        try:
            is_file = self.folder.exists() and not self.folder.is_dir()
        except OSError as exc:
            raise ExportError(
                f"repository {self.repository} cannot be looked at: {exc.strerror}; choose another --repository"
            ) from exc
        if is_file:
            raise ExportError(f"repository {self.repository} is a file; name a folder with --repository")

    @property
    def image_processor_settings(self) -> dict[str, Any]:
        """`image_processor_kwargs`, read.

        Raises:
            ExportError: it is no JSON object.
        """
        if not isinstance(self.image_processor_kwargs, str):
            return dict(self.image_processor_kwargs)
        try:
            settings = json.loads(self.image_processor_kwargs)
        except ValueError as exc:
            raise ExportError(f"image_processor_kwargs is not JSON: {exc}") from exc
        if not isinstance(settings, dict):
            raise ExportError(
                f"image_processor_kwargs is {self.image_processor_kwargs}; it must be a JSON object, such as "
                '{"size": {"height": 384, "width": 384}}'
            )
        return settings

    @property
    def folder(self) -> Path:
        """The repository."""
        return Path(self.repository)

    @property
    def deployed_name(self) -> str:
        """What the ensembles' names start with."""
        return self.name if self.name is not None else Path(self.model.rstrip("/")).resolve().name

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The ensembles to write."""
        return ("pooled", "unpooled") if self.outputs == "both" else (self.outputs,)
