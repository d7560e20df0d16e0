"""The two kinds of inputs, images and texts: what is planned, compared and exported for each."""

from __future__ import annotations

from dataclasses import replace

from vitriton_export._checkpoint import checkpoint as _images
from vitriton_export._checkpoint import text_checkpoint as _texts
from vitriton_export._checkpoint import two_towers
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._options import ExportOptions
from vitriton_export._repository.fingerprint import joined
from vitriton_export._towers import images, texts
from vitriton_export._towers.choice import Choice, choose
from vitriton_export._towers.plan import ExportPlan


def outline(source: CheckpointSource, options: ExportOptions) -> None:
    """Checks from the small files whether a checkpoint can be exported with these options; reads no weights.

    Raises:
        ExportError: it cannot.
    """
    choose(source, options)


def plans(source: CheckpointSource, options: ExportOptions) -> tuple[ExportPlan, ...]:
    """Loads a checkpoint, and plans its export with these options: a plan for each tower, images first.

    Raises:
        ExportError: the checkpoint cannot be exported, or not with these options.
    """
    choice = choose(source, options)
    first, *others = _in_one_space(source, choice) if choice.shares_space else [_alone(source, choice)]
    return (replace(first, notes=(*choice.notes, *first.notes)), *others)


def _alone(source: CheckpointSource, choice: Choice) -> ExportPlan:
    if choice.towers == ("image",):
        return images.plan(choice.options, _images.load(source, choice.options))
    towers = two_towers.load(source) if choice.is_one_of_two else None
    return texts.plan(choice.options, _texts.load(source, choice.options, towers))


def _in_one_space(source: CheckpointSource, choice: Choice) -> list[ExportPlan]:
    """Plans both towers, whichever are exported: the fingerprint is that of the space in which their vectors meet."""
    options, towers = choice.options, two_towers.load(source)
    image = images.plan(options, _images.load(source, options, towers))
    text = texts.plan(options, _texts.load(source, options, towers))
    space = joined(image.space, text.space)
    planned: list[ExportPlan] = [image.in_space(space, towers.logits), text.in_space(space, towers.logits)]
    return [plan for plan in planned if plan.deployment.step.tower in choice.towers]
