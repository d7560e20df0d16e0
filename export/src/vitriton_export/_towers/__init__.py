"""The two kinds of inputs, images and texts: what is planned, compared and exported for each."""

from __future__ import annotations

from vitriton._repository.names import Tower

from vitriton_export._checkpoint import checkpoint as _images
from vitriton_export._checkpoint import text_checkpoint as _texts
from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.config import read_config
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES
from vitriton_export._options import ExportOptions
from vitriton_export._towers import images, texts
from vitriton_export._towers.plan import ExportPlan


def tower_of(source: CheckpointSource) -> Tower:
    """The tower of a checkpoint that an export takes: that for images where it has one.

    Raises:
        ExportError: config.json cannot be used.
    """
    model_type = read_config(source).model_type
    return "text" if model_type in TEXT_FAMILIES and model_type not in FAMILIES else "image"


def outline(source: CheckpointSource, options: ExportOptions) -> None:
    """Checks from the small files whether a checkpoint can be exported with these options; reads no weights.

    Raises:
        ExportError: it cannot.
    """
    if tower_of(source) == "text":
        _texts.outline(source, options)
    else:
        _images.outline(source, options)


def plan(source: CheckpointSource, options: ExportOptions) -> ExportPlan:
    """Loads a checkpoint, and plans its export with these options.

    Raises:
        ExportError: the checkpoint cannot be exported, or not with these options.
    """
    if tower_of(source) == "text":
        return texts.plan(options, _texts.load(source, options))
    return images.plan(options, _images.load(source, options))
