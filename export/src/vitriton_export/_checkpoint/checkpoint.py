"""A checkpoint, loaded as the reference loads it, and the untrained weights that the loading report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoImageProcessor, PreTrainedModel
from vitriton.preprocessing import PreprocessSpec

from vitriton_export._checkpoint import two_towers
from vitriton_export._checkpoint.config import load_config
from vitriton_export._checkpoint.families import Family, check_pooling
from vitriton_export._checkpoint.heads import Head
from vitriton_export._checkpoint.loading import Loaded, load_model, quiet
from vitriton_export._checkpoint.network import PixelNetwork
from vitriton_export._checkpoint.source import CheckpointSource, check_image_processor
from vitriton_export._checkpoint.two_towers import TwoTowers
from vitriton_export._errors import ExportError, explained
from vitriton_export._options import ExportOptions, Pooling
from vitriton_export._processors import float_processor, processor, sizes, timm_processor
from vitriton_export._processors.normalization import Normalization

_SIZES = {"size", "crop_size", "pad_size"}  # settings of image processors


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model.

    Attributes:
        source: the checkpoint's files.
        model: the transformers model in float32, in evaluation mode.
        image_processor: the image processor, with its PIL backend.
        family: the family of the architecture.
        untrained_pooler: the names of the pooler's parameters that the checkpoint lacks.
        network: the module that calls `model` with pixels.
        spec: the steps of `image_processor` up to the pixels.
        normalization: the arithmetic of `image_processor` after the pixels.
        warnings: the warnings about the weights.
        head: the head that is not exported, or None.
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
    head: Head | None = None

    @property
    def tokens(self) -> dict[str, int]:
        """The number of tokens before and after the patches in last_hidden_state, as arguments of `pool`."""
        config = self.model.config
        return {
            "prefix_tokens": self.family.tokens_before(config),
            "suffix_tokens": self.family.tokens_after(config),
        }


@dataclass(frozen=True)
class Outline:
    """The facts in the small files of a checkpoint, read before any weights.

    Attributes:
        family: the family of the architecture.
        image_processor: the image processor, with its PIL backend.
        spec: the steps of the image processor up to the pixels.
        normalization: the arithmetic of the image processor after the pixels.
    """

    family: Family
    image_processor: Any
    spec: PreprocessSpec
    normalization: Normalization


def outline(source: CheckpointSource, options: ExportOptions | None = None) -> Outline:
    """Decides from the small files whether a checkpoint can be exported; reads no weights.

    Raises:
        ExportError: the checkpoint cannot be exported, or not with these options.
    """
    chosen = options or ExportOptions()
    with quiet():
        config, known = load_config(source)
    check_pooling(chosen.pooling, known, source.model_id)
    check_image_processor(source)
    with quiet(), explained(f"the image processor of {source.model_id} has invalid settings"):
        image_processor = _load_image_processor(source, config, chosen.image_processor_settings)
        image_processor = sizes.apply(image_processor, chosen)
        spec, normalization = processor.describe(image_processor)
    if chosen.jpeg_decoding == "scaled":
        spec = processor.with_scaled_decoding(spec, image_processor)
    return Outline(known, image_processor, spec, normalization)


def load(source: CheckpointSource, options: ExportOptions | None = None, towers: TwoTowers | None = None) -> Checkpoint:
    """Loads the model and its image processor.

    Args:
        source: the checkpoint.
        options: the options of the export.
        towers: the loaded model, if it has two towers whose vectors meet; None: it is loaded here.

    Raises:
        ExportError: the checkpoint cannot be loaded, or lacks weights that inference needs.
    """
    small = outline(source, options)
    known = small.family
    projects = options is not None and options.pooling == "projection" and known.projection not in (None, "pooler")
    if towers is None and projects and known.projection == "get_image_features":
        towers = two_towers.load(source)
    if towers is not None:
        loaded = Loaded(towers.image, (), towers.warnings, None)
    else:
        known = replace(known, model=known.projection) if projects else known
        loaded = load_model(source, known, () if projects else known.pooler)
    with explained(f"config.json of {source.model_id} is invalid"):
        network = PixelNetwork(loaded.model, known).eval()
        cut_off = _cut_off(source.model_id, loaded.model.config, known, small.spec)
    return Checkpoint(
        source,
        loaded.model,
        small.image_processor,
        known,
        loaded.missing,
        network,
        small.spec,
        small.normalization,
        (*loaded.warnings, *_interpolation(source.model_id, network, small.spec, options), *cut_off),
        loaded.head,
    )


def resolve_pooling(asked: Pooling, checkpoint: Checkpoint, *, has_pooler: bool, allow_untrained: bool) -> Pooling:
    """Returns the pooling of an export: the requested one, if the model has it and it is trained.

    Raises:
        ExportError: the pooler is untrained, or the model has no pooler or no CLS token.
    """
    model_id, known = checkpoint.source.model_id, checkpoint.family
    check_pooling(asked, known, model_id)
    if asked == "auto":
        if has_pooler and not checkpoint.untrained_pooler:
            return "pooler"
        return "cls" if known.has_cls else "mean"
    if asked == "pooler" and not has_pooler:
        raise ExportError(f"{model_id} has no pooler; use --pooling cls or --pooling mean")
    if asked == "pooler" and checkpoint.untrained_pooler and not allow_untrained:
        raise ExportError(
            f"the pooler of {model_id} is untrained: the checkpoint has no {checkpoint.untrained_pooler[0]}, so its "
            "output would be random; use --pooling auto, cls or mean (--allow-untrained-pooler exports it nevertheless)"
        )
    return asked


def _interpolation(
    model_id: str, network: PixelNetwork, spec: PreprocessSpec, options: ExportOptions | None
) -> tuple[str, ...]:
    """The warning for images of another size than the model was trained with, unless the user asked for that size."""
    asked = options is not None and (options.image_size or options.image_processor_settings.keys() & _SIZES)
    if asked or network.size is None or not network.needs_interpolation(spec.height, spec.width):
        return ()
    height, width = network.size
    keep = f" (--image-size {height} keeps that size)" if height == width else ""
    return (
        f"the image processor of {model_id} gives images of {spec.height} x {spec.width} pixels, and the model was "
        f"trained with {height} x {width}{keep}: its position embeddings are interpolated; transformers' pipeline "
        "refuses such images",
    )


def _cut_off(model_id: str, config: Any, known: Family, spec: PreprocessSpec) -> tuple[str, ...]:
    """The warning for images that are no whole number of patches: the model ignores the rest."""
    patch = getattr(config, "patch_size", None) if known.grid and known.inputs != "patches" else None
    down, across = (patch, patch) if isinstance(patch, int) else patch or (1, 1)
    if spec.height % down == spec.width % across == 0:
        return ()
    return (
        f"images of {spec.height} x {spec.width} pixels are no multiple of the patches of {model_id}, which have "
        f"{down} x {across}: it ignores the last {spec.height % down} rows and {spec.width % across} columns",
    )


def _load_image_processor(source: CheckpointSource, config: Any, settings: Mapping[str, Any]) -> Any:
    """Loads the PIL backend by name: with torchvision installed, the default is another, off by a few gray levels."""
    with explained(f"transformers cannot load the image processor of {source.model_id}"):
        for load_own in (float_processor.load, timm_processor.load):
            own = load_own(source.folder, dict(settings))
            if own is not None:
                return own
        return AutoImageProcessor.from_pretrained(
            source.folder, config=config, backend="pil", trust_remote_code=False, local_files_only=True, **settings
        )
