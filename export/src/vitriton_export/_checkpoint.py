"""A checkpoint, loaded as the reference loads it, and what its loading report says about untrained weights."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging
from vitriton.preprocessing import PreprocessSpec

from vitriton_export import _float_processor, _processor, _sizes, _timm_processor
from vitriton_export._errors import ExportError, one_line
from vitriton_export._families import Family, check_installed, family
from vitriton_export._network import Network
from vitriton_export._normalization import Normalization
from vitriton_export._options import ExportOptions, Pooling
from vitriton_export._source import Source, check_image_processor

# A pooler that the checkpoint lacks is random; with a fixed seed it is at least the same noise each time.
_SEED = 0


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
    """

    source: Source
    model: PreTrainedModel
    image_processor: Any
    family: Family
    untrained_pooler: tuple[str, ...]
    network: Network
    spec: PreprocessSpec
    normalization: Normalization

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


def load_config(source: Source) -> tuple[Any, Family]:
    """Reads config.json and finds the family, before any weights are touched.

    Raises:
        ExportError: it is not readable, needs code from its repository, or is of an unsupported type.
    """
    try:
        document = json.loads((source.folder / "config.json").read_text())
    except OSError as exc:
        raise ExportError(f"config.json of {source.model_id} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ExportError(f"config.json of {source.model_id} is not JSON: {exc}") from exc
    if not isinstance(document, dict) or "model_type" not in document:
        raise ExportError(f"config.json of {source.model_id} has no model_type, so it is not a transformers checkpoint")
    check_installed(document["model_type"], source.model_id)
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    except Exception as exc:
        if "auto_map" in document:
            raise ExportError(
                f"{source.model_id} brings code of its own ({document['model_type']}), which is not run; "
                "export a model that transformers itself has"
            ) from exc
        raise ExportError(f"transformers cannot read config.json of {source.model_id}: {one_line(exc)}") from exc
    return config, family(config, source.model_id)


def outline(source: Source, options: ExportOptions | None = None) -> Outline:
    """Reads what decides whether a checkpoint can be exported, and looks at no weights.

    Raises:
        ExportError: it cannot be, or not with these options.
    """
    chosen = options or ExportOptions()
    _, known = load_config(source)
    _check_pooling(chosen.pooling, known, source.model_id)
    check_image_processor(source)
    with quiet():
        image_processor = _sizes.apply(_load_image_processor(source, chosen.image_processor_settings), chosen)
    spec, normalization = _processor.describe(image_processor)
    if chosen.jpeg_decoding == "scaled":
        spec = _processor.with_scaled_decoding(spec, image_processor)
    return Outline(known, image_processor, spec, normalization)


def load(source: Source, options: ExportOptions | None = None) -> Checkpoint:
    """Loads model and image processor.

    Raises:
        ExportError: the checkpoint cannot be loaded, or lacks weights that inference needs.
    """
    small = outline(source, options)
    known = small.family
    projects = options is not None and options.pooling == "projection" and known.projection not in (None, "pooler")
    if projects:
        known = replace(known, model=known.projection)
    with quiet():
        model, absent = _load_model(source, known)
    missing = sorted(set(absent) - set(known.unused))
    pooler = tuple(key for key in missing if not projects and key.startswith(known.pooler))
    others = [key for key in missing if key not in pooler]
    if others:
        raise ExportError(
            f"{source.model_id} lacks {len(others)} weights of {type(model).__name__}, which would be random: "
            f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
        )
    network = Network(model, known).eval()
    return Checkpoint(source, model, small.image_processor, known, pooler, network, small.spec, small.normalization)


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


def _load_model(source: Source, known: Family) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the parameters that the checkpoint does not hold."""
    model_class: Any = AutoModel if known.model is None else getattr(transformers, known.model)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model, report = model_class.from_pretrained(
                source.folder,
                config=_config(source, known),
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except Exception as exc:
        raise ExportError(f"transformers cannot load {source.model_id}: {one_line(exc)}") from exc
    missing = list(report["missing_keys"])
    if known.part is not None:
        start = f"{known.part}."
        model = getattr(model, known.part)
        missing = [key.removeprefix(start) for key in missing if key.startswith(start)]
    return model.eval(), missing


def _config(source: Source, known: Family) -> Any:
    config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    if known.tower is not None and known.part is None:
        full, config = config, getattr(config, known.tower)
        if hasattr(full, "projection_dim"):  # what its text is projected to; the tower's own entry may be a default
            config.projection_dim = full.projection_dim
    for name, value in known.settings.items():
        setattr(config, name, value)
    return config


def _load_image_processor(source: Source, settings: Mapping[str, Any]) -> Any:
    """The PIL backend, by name: with torchvision installed the default is another one, which differs by grey levels."""
    try:
        for load_own in (_float_processor.load, _timm_processor.load):
            own = load_own(source.folder, dict(settings))
            if own is not None:
                return own
        return AutoImageProcessor.from_pretrained(
            source.folder, backend="pil", trust_remote_code=False, local_files_only=True, **settings
        )
    except ExportError:
        raise
    except Exception as exc:
        raise ExportError(
            f"transformers cannot load the image processor of {source.model_id}: {one_line(exc)}"
        ) from exc


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' notices and bars off the terminal; what matters in them is in the loading report."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
