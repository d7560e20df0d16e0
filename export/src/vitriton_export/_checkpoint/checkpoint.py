"""A checkpoint, loaded as the reference loads it, and what its loading report says about untrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoImageProcessor, PreTrainedModel
from vitriton.preprocessing import PreprocessSpec

from vitriton_export import _documents
from vitriton_export._checkpoint.config import load_config
from vitriton_export._checkpoint.families import Family
from vitriton_export._checkpoint.loading import load_model, quiet
from vitriton_export._checkpoint.network import PixelNetwork
from vitriton_export._checkpoint.source import PROCESSORS, CheckpointSource, check_image_processor
from vitriton_export._errors import ExportError, explained
from vitriton_export._options import ExportOptions, Pooling
from vitriton_export._processors import float_processor, processor, sizes, timm_processor
from vitriton_export._processors.normalization import Normalization

_SIZES = {"size", "crop_size", "pad_size"}  # settings of image processors


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model.

    Attributes:
        source: where it came from.
        model: in float32, in evaluation mode.
        image_processor: of the PIL backend.
        family: what is known of the architecture.
        untrained_pooler: the pooler's parameters that the checkpoint does not hold.
        network: calls `model`.
        spec: what `image_processor` does up to the pixels.
        normalization: what it does after that.
        warnings: what the user should know of the weights.
    """

    source: CheckpointSource
    model: PreTrainedModel
    image_processor: Any
    family: Family
    untrained_pooler: tuple[str, ...]
    network: PixelNetwork
    spec: PreprocessSpec
    normalization: Normalization
    warnings: tuple[str, ...] = ()

    @property
    def tokens(self) -> dict[str, int]:
        """How many tokens of last_hidden_state are no patches, as arguments of `pool`."""
        config = self.model.config
        return {
            "prefix_tokens": self.family.tokens_before(config),
            "suffix_tokens": self.family.tokens_after(config),
        }


@dataclass(frozen=True)
class Outline:
    """What the small files of a checkpoint tell, before any weights are touched.

    Attributes:
        family: what is known of the architecture.
        image_processor: of the PIL backend.
        spec: what it does up to the pixels.
        normalization: what it does after that.
    """

    family: Family
    image_processor: Any
    spec: PreprocessSpec
    normalization: Normalization


def outline(source: CheckpointSource, options: ExportOptions | None = None) -> Outline:
    """Reads what decides whether a checkpoint can be exported, and looks at no weights.

    Raises:
        ExportError: it cannot be, or not with these options.
    """
    chosen = options or ExportOptions()
    with quiet():
        config, known = load_config(source)
    _check_pooling(chosen.pooling, known, source.model_id)
    check_image_processor(source)
    with quiet(), explained(f"the image processor of {source.model_id} has settings that make no sense"):
        image_processor = _load_image_processor(source, config, chosen.image_processor_settings)
        image_processor = sizes.apply(image_processor, chosen)
        spec, normalization = processor.describe(image_processor)
    if chosen.jpeg_decoding == "scaled":
        spec = processor.with_scaled_decoding(spec, image_processor)
    return Outline(known, image_processor, spec, normalization)


def load(source: CheckpointSource, options: ExportOptions | None = None) -> Checkpoint:
    """Loads model and image processor.

    Raises:
        ExportError: the checkpoint cannot be loaded, or lacks weights that inference needs.
    """
    small = outline(source, options)
    known = small.family
    projects = options is not None and options.pooling == "projection" and known.projection not in (None, "pooler")
    if projects:
        known = replace(known, model=known.projection)
    loaded = load_model(source, known, () if projects else known.pooler)
    with explained(f"config.json of {source.model_id} makes no sense"):
        network = PixelNetwork(loaded.model, known).eval()
    return Checkpoint(
        source,
        loaded.model,
        small.image_processor,
        known,
        loaded.missing,
        network,
        small.spec,
        small.normalization,
        (*loaded.warnings, *_interpolation(source.model_id, network, small.spec, options)),
    )


def _interpolation(
    model_id: str, network: PixelNetwork, spec: PreprocessSpec, options: ExportOptions | None
) -> tuple[str, ...]:
    """What to know of images that have another size than the model was trained with, where nobody has asked for it."""
    asked = options is not None and (options.image_size or options.image_processor_settings.keys() & _SIZES)
    if asked or network.size is None or not network.needs_interpolation(spec.height, spec.width):
        return ()
    height, width = network.size
    keep = f" (--image-size {height} keeps that size)" if height == width else ""
    return (
        f"the image processor of {model_id} gives images of {spec.height} x {spec.width} pixels, and the model was "
        f"trained with {height} x {width}{keep}: its position embeddings are interpolated, where transformers' "
        "pipeline stops",
    )


def _check_pooling(asked: Pooling, known: Family, model_id: str) -> None:
    if asked == "projection" and known.projection is None:
        raise ExportError(f"{model_id} has no projection to compare with text; use --pooling {_other_poolings(known)}")
    if asked == "cls" and not known.has_cls:
        raise ExportError(f"{model_id} has no CLS token; use --pooling mean")


def _other_poolings(known: Family) -> str:
    *first, last = (pooling for pooling in known.poolings if pooling != "projection")
    return f"{', '.join(first)} or {last}"


def resolve_pooling(asked: Pooling, checkpoint: Checkpoint, *, has_pooler: bool, allow_untrained: bool) -> Pooling:
    """Which pooling an export gets: what was asked for, if it is there and means something.

    Raises:
        ExportError: the pooler is untrained, or the model has no pooler or no CLS token.
    """
    model_id, known = checkpoint.source.model_id, checkpoint.family
    _check_pooling(asked, known, model_id)
    if asked == "auto":
        if has_pooler and not checkpoint.untrained_pooler:
            return "pooler"
        return "cls" if known.has_cls else "mean"
    if asked == "pooler" and not has_pooler:
        raise ExportError(f"{model_id} has no pooler; use --pooling cls or --pooling mean")
    if asked == "pooler" and checkpoint.untrained_pooler and not allow_untrained:
        raise ExportError(
            f"the pooler of {model_id} is untrained: the checkpoint has no {checkpoint.untrained_pooler[0]}, so its "
            "output would be random; use --pooling auto, cls or mean (--allow-untrained-pooler ships the noise)"
        )
    return asked


def _load_image_processor(source: CheckpointSource, config: Any, settings: Mapping[str, Any]) -> Any:
    """The PIL backend, by name: with torchvision installed the default is another one, which differs by grey levels."""
    for path in (source.folder / name for name in PROCESSORS):
        if path.is_file():
            _documents.read(path, source.model_id)  # transformers says less of what is no JSON
    with explained(f"transformers cannot load the image processor of {source.model_id}"):
        for load_own in (float_processor.load, timm_processor.load):
            own = load_own(source.folder, dict(settings))
            if own is not None:
                return own
        return AutoImageProcessor.from_pretrained(
            source.folder, config=config, backend="pil", trust_remote_code=False, local_files_only=True, **settings
        )
