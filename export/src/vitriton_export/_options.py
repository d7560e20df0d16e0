"""What a caller asks of an export."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from vitriton._names import KINDS, Kind
from vitriton.preprocessing import (
    DEFAULT_FORMATS,
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_DECODE_BYTES,
    DEFAULT_MAX_PIXELS,
    Limits,
)

from vitriton_export._documents import json_fault
from vitriton_export._errors import ExportError, OptionError
from vitriton_export._serving import Accelerator, Device, Serving

DEFAULT_MODEL = "google/vit-base-patch16-224"

Pooling = Literal["auto", "pooler", "cls", "mean", "projection"]
Outputs = Literal["both", "pooled", "unpooled"]
Precision = Literal["fp32", "fp16", "int8", "int8-fast"]
OutputDtype = Literal["fp32", "fp16"]
Optimize = Literal["default", "none"]
JpegDecoding = Literal["exact", "scaled"]

_CHOICES: dict[str, Any] = {
    "pooling": Pooling,
    "outputs": Outputs,
    "precision": Precision,
    "output_dtype": OutputDtype,
    "optimize": Optimize,
    "jpeg_decoding": JpegDecoding,
}

MAX_IMAGE_SIZE = 4096
MAX_IMAGE_BYTES = 2**31 - 1  # what a gRPC message can hold
MAX_DECODE_BYTES = 2**40
# Pillow cannot be told to take more, and the reference does not.
MAX_IMAGE_PIXELS = DEFAULT_MAX_PIXELS
MAX_IMAGE_FRAMES = 1_000_000

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
        precision: of the encoder's weights and arithmetic: "int8" with a scale for each token, "int8-fast" with one for
            the whole batch, so that the other images of a batch move an embedding.
        output_dtype: of the outputs, whatever the precision.
        optimize: "none" leaves the graph as torch exports it, with eager attention.
        min_cosine: the least cosine similarity with the reference, instead of the precision's own gate.
        allow_untrained_pooler: ship a pooler whose weights are random, for `pooling="pooler"`.
        max_single_file_bytes: weights over this size go to a file beside the graph (protobuf ends at 2 GiB).
        image_size: side of the square that the model gets, in pixels; by default the image processor's own.
        image_processor_kwargs: settings of the image processor that replace the checkpoint's, as JSON or as a mapping.
        jpeg_decoding: "scaled" decodes JPEGs much larger than the model's images at a part of their size: faster, and
            not the reference's pixels.
        device: see `Serving`, as for all that follow.
        instances: of each encoder.
        max_queue_delay_us: how long a request may wait for others to share its batch.
        max_queue_size: requests that wait, in each step; 0: any number.
        queue_timeout_ms: the longest that a request waits in a step; 0: any time.
        accelerator: an execution accelerator of Triton's native onnxruntime backend.
        tensorrt_cache: the folder for TensorRT's engines and timings, as the server sees it.
        warmup: batch sizes that an encoder runs before it is ready; None chooses them.
        max_image_bytes: an encoded image over it is refused, as with all limits that follow; see `Limits`.
        max_image_pixels: width × height.
        max_image_frames: of an animation, or pages; None: any number.
        image_formats: those that are taken.
        max_decode_bytes: memory in which images are made into pixels.
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
    output_dtype: OutputDtype = "fp32"
    optimize: Optimize = "default"
    min_cosine: float | None = None
    allow_untrained_pooler: bool = False
    max_single_file_bytes: int = 1_900_000_000
    image_size: int | None = None
    image_processor_kwargs: str | Mapping[str, Any] = "{}"
    jpeg_decoding: JpegDecoding = "exact"
    device: Device = "auto"
    instances: int = 1
    max_queue_delay_us: int = 0
    max_queue_size: int = 256
    queue_timeout_ms: int = 60_000
    accelerator: Accelerator | None = None
    tensorrt_cache: str = "tensorrt-cache"
    warmup: tuple[int, ...] | None = None
    max_image_bytes: int = DEFAULT_MAX_BYTES
    max_image_pixels: int = DEFAULT_MAX_PIXELS
    max_image_frames: int | None = None
    image_formats: tuple[str, ...] = DEFAULT_FORMATS
    max_decode_bytes: int = DEFAULT_MAX_DECODE_BYTES

    def __post_init__(self) -> None:
        """Refuses values that no export can have."""
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in get_args(choices):
                raise OptionError(field, f"is {value!r}; choose one of {', '.join(get_args(choices))}")
        if self.min_cosine is not None and not 0 < self.min_cosine < 1:
            raise OptionError(
                "min_cosine",
                f"is {self.min_cosine}; it must be above 0 and below 1, which rounding alone keeps out of reach",
            )
        if not 1 <= self.max_batch_size <= 1024:
            raise OptionError("max_batch_size", f"is {self.max_batch_size}; it must be from 1 to 1024")
        self._check_limits()
        self.serving.check(max_batch_size=self.max_batch_size, precision=self.precision)
        if self.image_size is not None and not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise OptionError("image_size", f"is {self.image_size}; it must be from 1 to {MAX_IMAGE_SIZE}")
        settings = self.image_processor_settings
        if self.image_size is not None and settings.keys() & {"size", "crop_size", "pad_size"}:
            raise OptionError("image_size", "is given, and image_processor_kwargs has a size as well; give one of them")
        if not self.model.strip():
            raise ExportError("model is empty; give a Hugging Face hub id or a checkpoint's folder")
        if not _NAME.fullmatch(self.deployed_name):
            raise ExportError(
                f"Triton cannot take the model name {self.deployed_name!r}: use letters, digits, '.', '_' and '-', at "
                "most 128, starting with a letter or digit; give another with --name"
            )
        if not os.fspath(self.repository):
            raise OptionError("repository", "is empty; name a folder")
        try:
            is_file = self.folder.exists() and not self.folder.is_dir()
        except OSError as exc:
            raise ExportError(
                f"repository {self.repository} cannot be looked at: {exc.strerror}; choose another --repository"
            ) from exc
        if is_file:
            raise ExportError(f"repository {self.repository} is a file; name a folder with --repository")

    def _check_limits(self) -> None:
        for field, least, most in (
            ("max_image_bytes", 1, MAX_IMAGE_BYTES),
            ("max_image_pixels", 1, MAX_IMAGE_PIXELS),
            ("max_image_frames", 1, MAX_IMAGE_FRAMES),
            ("max_decode_bytes", 1 << 20, MAX_DECODE_BYTES),
        ):
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise OptionError(field, f"is {value}; it must be from {least} to {most}")
        unknown = [name for name in self.image_formats if name not in DEFAULT_FORMATS]
        if unknown or not self.image_formats:
            wrong = f"has {', '.join(map(repr, unknown))}" if unknown else "is empty"
            raise OptionError("image_formats", f"{wrong}; choose of {','.join(DEFAULT_FORMATS)}")

    @property
    def limits(self) -> Limits:
        """What preprocessing refuses."""
        return Limits(
            max_pixels=self.max_image_pixels,
            formats=tuple(self.image_formats),
            max_bytes=self.max_image_bytes,
            max_frames=self.max_image_frames,
            max_decode_bytes=self.max_decode_bytes,
        )

    @property
    def image_processor_settings(self) -> dict[str, Any]:
        """`image_processor_kwargs`, read.

        Raises:
            OptionError: it is no JSON object.
        """
        if not isinstance(self.image_processor_kwargs, str):
            return dict(self.image_processor_kwargs)
        try:
            settings = json.loads(self.image_processor_kwargs)
        except (ValueError, RecursionError) as exc:
            raise OptionError("image_processor_kwargs", json_fault(exc)) from exc
        if not isinstance(settings, dict):
            raise OptionError(
                "image_processor_kwargs",
                f"is {self.image_processor_kwargs}; it must be a JSON object, such as "
                '{"size": {"height": 384, "width": 384}}',
            )
        return settings

    @property
    def verification(self) -> dict[str, Any]:
        """Those that change the images or the gates, where they were given."""
        given = {
            "image_size": self.image_size,
            "image_processor_kwargs": self.image_processor_settings or None,
            "jpeg_decoding": self.jpeg_decoding if self.jpeg_decoding != "exact" else None,
            "min_cosine": self.min_cosine,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def folder(self) -> Path:
        """The repository."""
        return Path(self.repository)

    @property
    def deployed_name(self) -> str:
        """What the ensembles' names start with."""
        return self.name if self.name is not None else Path(self.model.rstrip("/")).resolve().name

    @property
    def serving(self) -> Serving:
        """How Triton is to run it."""
        return Serving(**{field.name: getattr(self, field.name) for field in fields(Serving)})

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The ensembles to write."""
        return KINDS if self.outputs == "both" else (self.outputs,)
