"""A checkpoint, loaded as the reference loads it, and what its loading report says about untrained weights."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vitriton_export._errors import ExportError, one_line
from vitriton_export._families import POOLER, Family, family
from vitriton_export._options import Pooling
from vitriton_export._source import Source

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
    """

    source: Source
    model: PreTrainedModel
    image_processor: Any
    family: Family
    untrained_pooler: tuple[str, ...]


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


def load(source: Source) -> Checkpoint:
    """Loads model and image processor.

    Raises:
        ExportError: the checkpoint cannot be loaded, or lacks weights that inference needs.
    """
    _, known = load_config(source)
    with quiet():
        model, report = _load_model(source)
        image_processor = _load_image_processor(source)
    missing = sorted(set(report["missing_keys"]) - set(known.unused))
    pooler = tuple(key for key in missing if key.startswith(POOLER))
    others = [key for key in missing if key not in pooler]
    if others:
        raise ExportError(
            f"{source.model_id} lacks {len(others)} weights of {type(model).__name__}, which would be random: "
            f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
        )
    return Checkpoint(source, model, image_processor, known, pooler)


def resolve_pooling(asked: Pooling, checkpoint: Checkpoint, *, has_pooler: bool, allow_untrained: bool) -> Pooling:
    """Which pooling an export gets: what was asked for, if it is there and means something.

    Raises:
        ExportError: the pooler is untrained, or the model has no pooler or no CLS token.
    """
    model_id, known = checkpoint.source.model_id, checkpoint.family
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
    if asked == "cls" and not known.has_cls:
        raise ExportError(f"{model_id} has no CLS token; use --pooling mean")
    return asked


def _load_model(source: Source) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model, report = AutoModel.from_pretrained(
                source.folder,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except Exception as exc:
        raise ExportError(f"transformers cannot load {source.model_id}: {one_line(exc)}") from exc
    return model.eval(), report


def _load_image_processor(source: Source) -> Any:
    """The PIL backend, by name: with torchvision installed the default is another one, which differs by grey levels."""
    try:
        return AutoImageProcessor.from_pretrained(
            source.folder, backend="pil", trust_remote_code=False, local_files_only=True
        )
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
