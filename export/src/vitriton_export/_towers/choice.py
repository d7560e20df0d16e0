"""Which towers of a checkpoint are exported, and whether their vectors share a space."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from vitriton._repository.names import Tower

from vitriton_export._checkpoint import checkpoint as _images
from vitriton_export._checkpoint import text_checkpoint as _texts
from vitriton_export._checkpoint.architectures import FAMILIES
from vitriton_export._checkpoint.config import read_config
from vitriton_export._checkpoint.source import CheckpointSource, has_image_processor
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES
from vitriton_export._checkpoint.two_towers import has_two
from vitriton_export._errors import ExportError, OptionError
from vitriton_export._options import ExportOptions

_OUTLINES: dict[Tower, Callable[[CheckpointSource, ExportOptions], object]] = {
    "image": _images.outline,
    "text": _texts.outline,
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The towers to export.

    Attributes:
        towers: the towers, images first.
        options: the options of the export, with the pooling that the towers share.
        is_one_of_two: whether the checkpoint has two towers whose vectors meet.
        shares_space: whether the files of both are there, so that the space is that of both.
        notes: the facts about the choice that may surprise a user.
    """

    towers: tuple[Tower, ...]
    options: ExportOptions
    is_one_of_two: bool = False
    shares_space: bool = False
    notes: tuple[str, ...] = ()


def choose(source: CheckpointSource, options: ExportOptions) -> Choice:
    """Decides from the small files of a checkpoint.

    Raises:
        ExportError: the checkpoint cannot be exported, or not with these options.
    """
    config = read_config(source)
    if has_two(config):
        return _of_two(source, options)
    tower: Tower = "text" if config.model_type in TEXT_FAMILIES and config.model_type not in FAMILIES else "image"
    if options.towers not in ("auto", tower):
        raise OptionError("towers", f"is {options.towers}, and {source.model_id} takes {tower}s alone; leave it out")
    _check_options(source, options, (tower,))
    _OUTLINES[tower](source, options)
    return Choice(towers=(tower,), options=options)


def _of_two(source: CheckpointSource, options: ExportOptions) -> Choice:
    model_id, notes = source.model_id, list[str]()
    if options.pooling not in ("auto", "projection"):
        return _images_alone(source, options)
    if options.dimensions is not None:
        raise OptionError(
            "dimensions", f"is given, and would cut the vectors of texts alone; {model_id} compares them with images"
        )
    if options.pooling == "auto":
        notes.append("pooling is projection, in which images and texts are compared")
    options = replace(options, pooling="projection")
    faults = _faults(source, options)
    towers = _wanted(options, faults)
    for tower in towers:
        if tower in faults:
            raise faults[tower]
    _check_options(source, options, towers)
    for tower, fault in faults.items():
        notes.append(
            f"the {tower} tower of {model_id} is not exported, and the fingerprint is that of the {towers[0]} tower "
            f"alone: {fault}"
        )
    return Choice(towers=towers, options=options, is_one_of_two=True, shares_space=not faults, notes=tuple(notes))


def _wanted(options: ExportOptions, faults: Collection[Tower]) -> tuple[Tower, ...]:
    if options.towers == "auto":
        return tuple(tower for tower in _OUTLINES if tower not in faults) or ("image",)
    return ("image", "text") if options.towers == "both" else (options.towers,)


def _images_alone(source: CheckpointSource, options: ExportOptions) -> Choice:
    """The choice for a pooling whose vectors are not compared with those of texts."""
    if options.towers in ("both", "text"):
        raise OptionError(
            "pooling",
            f"is {options.pooling}, and the images and texts of {source.model_id} are compared in its projection; "
            "leave it out, or use --towers image",
        )
    _check_options(source, options, ("image",))
    _images.outline(source, options)
    note = (
        f"the text tower of {source.model_id} is not exported: its texts are compared with images by --pooling "
        f"projection, and --pooling is {options.pooling}"
    )
    return Choice(towers=("image",), options=options, notes=(note,) if options.towers == "auto" else ())


def _faults(source: CheckpointSource, options: ExportOptions) -> dict[Tower, ExportError]:
    """Returns why towers cannot be exported: no image processor, or no tokenizer that a server runs."""
    faults: dict[Tower, ExportError] = {}
    for tower, outline in _OUTLINES.items():
        try:
            outline(source, options)
        except OptionError:
            raise
        except ExportError as exc:
            if tower == "image" and options.towers != "text" and has_image_processor(source):
                raise
            faults[tower] = exc
    return faults


def _check_options(source: CheckpointSource, options: ExportOptions, towers: tuple[Tower, ...]) -> None:
    """Refuses the options that only a tower has that is not exported."""
    foreign: dict[Tower, tuple[str, ...]] = {"image": options.for_images(), "text": options.for_texts()}
    for tower in foreign.keys() - towers:
        for name in foreign[tower]:
            raise OptionError(
                name, f"is for models that take {tower}s, and {source.model_id} takes {towers[0]}s; leave it out"
            )
