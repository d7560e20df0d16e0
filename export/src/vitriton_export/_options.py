"""The options of an export."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from vitriton._keywords import suggests_keywords
from vitriton._repository.names import Kind, Tower, kind_of, kinds_of, model_names
from vitriton.preprocessing import (
    DEFAULT_FORMATS,
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_DECODE_BYTES,
    DEFAULT_MAX_PIXELS,
    Limits,
)

from vitriton_export._documents import json_fault
from vitriton_export._errors import OptionError
from vitriton_export._serving import PANEL, Serving
from vitriton_export.triton.tokenize.vitriton_tokenizing import DEFAULT_MAX_TEXT_BYTES

DEFAULT_MODEL = "google/vit-base-patch16-224"

Pooling = Literal["auto", "pooler", "cls", "mean", "projection", "max", "last", "weighted-mean"]
Outputs = Literal["both", "pooled", "unpooled"]
Precision = Literal["fp32", "fp16", "int8", "int8-fast"]
OutputDtype = Literal["fp32", "fp16"]
Optimize = Literal["default", "none"]
JpegDecoding = Literal["exact", "scaled"]
Towers = Literal["auto", "both", "image", "text"]

MAX_IMAGE_SIZE = 4096  # in pixels, for each side
_MAX_IMAGE_BYTES = 2**31 - 1  # the largest gRPC message
# Pillow's own limit, which cannot be raised, and which the reference has too.
_MAX_IMAGE_PIXELS = DEFAULT_MAX_PIXELS

# the groups of the options in the help
_MODEL, _REPOSITORY, _EMBEDDING, _PRECISION = "Model", "Repository", "Embedding", "Precision"
_LIMITS, _TEXTS = "Limits on images", "Texts"
# Options that a model for texts does not have, and that a model for images does not have
_FOR_IMAGES = (
    "image_size",
    "image_processor_kwargs",
    "jpeg_decoding",
    "max_image_bytes",
    "max_image_pixels",
    "max_image_frames",
    "image_formats",
    "max_decode_bytes",
)
_FOR_TEXTS = ("max_length", "dimensions", "max_text_bytes")

# Triton takes a model's name from its folder and puts it into URLs and metric labels.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# The ends of the names of an export's models: _pooled, _preprocess and so on
_ENDINGS = sorted({part for model in model_names("") for part in model.split("_") if part})
_ENDING = re.compile(rf"(_({'|'.join(_ENDINGS)}))+$")


def _formats(text: str) -> tuple[str, ...]:
    """Turns `jpeg,png` into Pillow's names."""
    return tuple(part.strip().upper() for part in text.split(",") if part.strip())


def check_min_cosine(value: float | None) -> None:
    """Refuses a demand on cosine similarities that every export meets, or none does: rounding keeps them below 1."""
    if value is not None and not 0 < value < 1:
        raise OptionError("min_cosine", f"is {value}; it must be between 0 and 1, both excluded")


# Names of folders that training scripts write to, and of a snapshot in the hub's cache, which say nothing of the model
_UNTOLD = re.compile(
    r"(models?|checkpoints?|ckpts?|out(puts?)?|results?|final|best|last|latest|main|weights|pretrained|exports?|hf|tmp)"
    r"([._-]?(model|checkpoint|ckpt|weights|\d+))*|(epoch|step)[._-]?\d+|[0-9a-f]{40}",
    re.IGNORECASE,
)


@suggests_keywords
@dataclass(frozen=True, kw_only=True)
class ExportOptions(Serving):
    """The options of `vitriton export`.

    The attributes of `Serving`, which say how Triton runs the export, are options as well: device, instances,
    gpus, max_gpu_bytes, preprocess_instances, max_queue_delay_us, max_queue_size, queue_timeout_ms, accelerator,
    tensorrt_cache, warmup.

    Attributes:
        model: the Hugging Face hub id of a model, or a checkpoint folder that save_pretrained wrote.
        revision: the branch, tag or commit of the model on the hub.
        repository: the Triton model repository to write to; it is created if it does not exist.
        name: the name under which the model is served. None: the last part of the model's id.
        towers: the towers of the model to serve: for images, for texts, or both; auto serves all that the checkpoint
            has the files of.
        pooling: the method that makes one vector of the tokens of an image or a text; auto uses the projection of a
            model that compares images with texts. For other images, it uses the checkpoint's pooler if it is trained or
            has no parameters, else the CLS token, else the mean; for other texts, what the files of
            sentence-transformers say, else the last token of a causal model, else the mean.
        l2_normalize: scale embeddings to length 1 inside the graph.
        outputs: the outputs to serve: one vector for each image or text (pooled), all of its tokens (unpooled), or
            both.
        precision: the precision of weights and arithmetic; fp16 is for GPUs, int8 for CPUs. int8 scales each token
            separately; int8-fast shares one scale within a batch, so the images of a batch affect each other's
            embeddings ("Alone and in a batch" in the documentation).
        output_dtype: the data type of the outputs, independent of the precision.
        optimize: the optimization of the ONNX graph; none keeps the graph that torch exports, with eager attention.
        min_cosine: the lowest accepted cosine similarity between an output and transformers' output, for the worst test
            image; between 0 and 1, both excluded. None: the limit for the precision.
        allow_untrained_pooler: accept `pooling` pooler even if the checkpoint has no trained pooler; its weights are
            then random.
        max_single_file_bytes: the size in bytes above which weights are stored in a file beside the graph, as protobuf
            allows at most 2 GiB.
        image_size: the height and width of the images that the network receives, in pixels. None: the image processor's
            own size.
        image_processor_kwargs: the image processor settings that override those of the checkpoint, as a JSON object.
        max_batch_size: the largest number of images or texts that the server puts into one batch.
        jpeg_decoding: the way JPEGs are decoded; exact makes the same pixels as transformers, scaled decodes large
            JPEGs at a reduced size, which is faster and changes the pixels slightly.
        max_length: the largest number of tokens of a text, with the special tokens; longer texts are cut. None: the
            checkpoint's own.
        dimensions: the number of leading dimensions of an embedding to keep, for models that were trained for it
            (Matryoshka). None: all.
        max_text_bytes: the largest accepted size of a text, in bytes of UTF-8.
        max_image_bytes: the largest accepted size of an encoded image, in bytes.
        max_image_pixels: the largest accepted number of pixels of an image: width × height, according to its header.
        max_image_frames: the largest accepted number of frames of an animation or pages of a TIFF; only the first one
            is used. None: any number.
        image_formats: the accepted image formats; clients send arrays as PPM.
        max_decode_bytes: the memory for decoding images, in bytes: for a single image, and for all images that are
            decoded at the same time.
    """

    model: Annotated[str, typer.Argument(metavar="MODEL")] = DEFAULT_MODEL
    revision: Annotated[str | None, typer.Option(metavar="REVISION", rich_help_panel=_MODEL)] = None
    repository: Annotated[str | os.PathLike[str], typer.Option(metavar="PATH", rich_help_panel=_REPOSITORY)] = (
        "model_repository"
    )
    name: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_REPOSITORY)] = None
    towers: Annotated[Towers, typer.Option(rich_help_panel=_MODEL)] = "auto"
    pooling: Annotated[Pooling, typer.Option(rich_help_panel=_EMBEDDING)] = "auto"
    l2_normalize: Annotated[bool, typer.Option("--l2-normalize", rich_help_panel=_EMBEDDING)] = False
    outputs: Annotated[Outputs, typer.Option(rich_help_panel=_EMBEDDING)] = "both"
    precision: Annotated[Precision, typer.Option(rich_help_panel=_PRECISION)] = "fp32"
    output_dtype: Annotated[OutputDtype, typer.Option(rich_help_panel=_PRECISION)] = "fp32"
    optimize: Annotated[Optimize, typer.Option(rich_help_panel=_PRECISION)] = "default"
    min_cosine: Annotated[float | None, typer.Option(metavar="COSINE", rich_help_panel=_PRECISION)] = None
    allow_untrained_pooler: Annotated[bool, typer.Option("--allow-untrained-pooler", rich_help_panel=_EMBEDDING)] = (
        False
    )
    max_single_file_bytes: int = 1_900_000_000
    image_size: Annotated[
        int | None, typer.Option(metavar="PIXELS", min=1, max=MAX_IMAGE_SIZE, rich_help_panel=_MODEL)
    ] = None
    image_processor_kwargs: Annotated[str | Mapping[str, Any], typer.Option(metavar="JSON", rich_help_panel=_MODEL)] = (
        "{}"
    )
    max_batch_size: Annotated[int, typer.Option(min=1, max=1024, metavar="N", rich_help_panel=PANEL)] = 32
    jpeg_decoding: Annotated[JpegDecoding, typer.Option(rich_help_panel=_MODEL)] = "exact"
    max_length: Annotated[int | None, typer.Option(metavar="TOKENS", min=1, rich_help_panel=_TEXTS)] = None
    dimensions: Annotated[int | None, typer.Option(metavar="N", min=1, rich_help_panel=_EMBEDDING)] = None
    max_text_bytes: Annotated[
        int, typer.Option(metavar="BYTES", min=1, max=_MAX_IMAGE_BYTES, rich_help_panel=_TEXTS)
    ] = DEFAULT_MAX_TEXT_BYTES
    max_image_bytes: Annotated[
        int, typer.Option(metavar="BYTES", min=1, max=_MAX_IMAGE_BYTES, rich_help_panel=_LIMITS)
    ] = DEFAULT_MAX_BYTES
    max_image_pixels: Annotated[
        int, typer.Option(metavar="PIXELS", min=1, max=_MAX_IMAGE_PIXELS, rich_help_panel=_LIMITS)
    ] = DEFAULT_MAX_PIXELS
    max_image_frames: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1_000_000, rich_help_panel=_LIMITS)
    ] = None
    image_formats: Annotated[
        tuple[str, ...], typer.Option(metavar="NAMES", parser=_formats, rich_help_panel=_LIMITS)
    ] = DEFAULT_FORMATS
    max_decode_bytes: Annotated[
        int, typer.Option(metavar="BYTES", min=1 << 20, max=1 << 40, rich_help_panel=_LIMITS)
    ] = DEFAULT_MAX_DECODE_BYTES

    def __post_init__(self) -> None:
        """Refuses values that no export can have."""
        super().__post_init__()
        self.check(max_batch_size=self.max_batch_size, precision=self.precision)
        self._check_images()
        self._check_target()
        check_min_cosine(self.min_cosine)

    def _check_images(self) -> None:
        unknown = [name for name in self.image_formats if name not in DEFAULT_FORMATS]
        if unknown or not self.image_formats:
            wrong = f"has {', '.join(map(repr, unknown))}" if unknown else "is empty"
            raise OptionError("image_formats", f"{wrong}; choose of {','.join(DEFAULT_FORMATS)}")
        settings = self.image_processor_settings
        if self.image_size is not None and settings.keys() & {"size", "crop_size", "pad_size"}:
            raise OptionError(
                "image_size", "is given, and `image_processor_kwargs` has a size as well; give one of them"
            )

    def _check_target(self) -> None:
        if not self.model.strip():
            raise OptionError("model", "is empty; give a Hugging Face hub id or a checkpoint's folder")
        self._check_name()
        if not os.fspath(self.repository):
            raise OptionError("repository", "is empty; name a folder")
        try:
            is_file = self.folder.exists() and not self.folder.is_dir()
        except OSError as exc:
            raise OptionError("repository", f"{self.repository} cannot be read: {exc.strerror}; name another") from exc
        if is_file:
            raise OptionError("repository", f"{self.repository} is a file; name a folder")

    def _check_name(self) -> None:
        name = self.deployed_name
        option, begins = (
            ("name", "is") if self.name is not None else ("model", f"is {self.model}, which gives the name")
        )
        if not _NAME.fullmatch(name):
            use = "use" if option == "name" else "choose --name, of"
            raise OptionError(
                option,
                f"{begins} {name!r}, which Triton cannot take; {use} letters, digits, '.', '_' and '-', at most 128, "
                "starting with a letter or digit",
            )
        if (ending := _ENDING.search(name)) is not None:
            raise OptionError(
                option,
                f"{begins} {name!r}, which ends as the models inside an export do ({ending[2]}) and would be taken for "
                f"one of them; use --name {name[: ending.start()]}",
            )

    @property
    def limits(self) -> Limits:
        """The limits on images, which preprocessing enforces."""
        return Limits(
            max_pixels=self.max_image_pixels,
            formats=tuple(self.image_formats),
            max_bytes=self.max_image_bytes,
            max_frames=self.max_image_frames,
            max_decode_bytes=self.max_decode_bytes,
        )

    @property
    def image_processor_settings(self) -> dict[str, Any]:
        """Returns the content of `image_processor_kwargs`.

        Raises:
            OptionError: the text is not a JSON object.
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
        """Returns the options that change the images or the gates, if they were given."""
        given = {
            "image_size": self.image_size,
            "image_processor_kwargs": self.image_processor_settings or None,
            "jpeg_decoding": self.jpeg_decoding if self.jpeg_decoding != "exact" else None,
            "min_cosine": self.min_cosine,
            "max_length": self.max_length,
            "dimensions": self.dimensions,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def folder(self) -> Path:
        """The repository."""
        return Path(self.repository)

    @property
    def deployed_name(self) -> str:
        """The prefix of the ensembles' names."""
        return self.name if self.name is not None else Path(self.model.rstrip("/")).resolve().name

    @property
    def untold_name(self) -> str | None:
        """Says that nobody chose the name, if it is one like "model" or "checkpoint-500", which may be any model's."""
        if self.name is not None or not _UNTOLD.fullmatch(self.deployed_name):
            return None
        above = Path(self.model).expanduser().resolve().parent.name
        usable = _NAME.fullmatch(above) and not _ENDING.search(above) and not _UNTOLD.fullmatch(above)
        example = f", such as --name {above}" if usable and Path(self.model).expanduser().is_dir() else ""
        return f"the name of this export is {self.deployed_name}, as that of its folder; --name gives another{example}"

    @property
    def serving(self) -> Serving:
        """The settings with which Triton runs the export."""
        return Serving(**{field.name: getattr(self, field.name) for field in fields(Serving)})

    def for_images(self) -> tuple[str, ...]:
        """Returns the names of the given options that only a model for images has."""
        return self._given(_FOR_IMAGES)

    def for_texts(self) -> tuple[str, ...]:
        """Returns the names of the given options that only a model for texts has."""
        return self._given(_FOR_TEXTS)

    def _given(self, names: tuple[str, ...]) -> tuple[str, ...]:
        defaults = {field.name: field.default for field in fields(self)}
        given = {name: getattr(self, name) for name in names}
        as_default = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return tuple(name for name, value in as_default.items() if value != defaults[name])

    def kinds(self, tower: Tower) -> tuple[Kind, ...]:
        """Returns the kinds of the ensembles to write for a tower."""
        return kinds_of(tower) if self.outputs == "both" else (kind_of(self.outputs == "pooled", tower),)
