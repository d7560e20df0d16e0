"""The differences between an interrupted run and the command that would continue it, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from vitriton._images.sources import source_name

if TYPE_CHECKING:
    from vitriton.commands.embed.journal import Job

_MAX_NAMED = 3  # images named in a message


def job_change(then: Job, now: Job, sources_then: Sequence[str] | None, sources_now: Sequence[str]) -> str:
    """The first difference between two jobs, as a sentence.

    Args:
        then: the job of the interrupted run.
        now: the job of this command; it differs.
        sources_then: the paths and URLs of the interrupted run; None if they are unknown.
        sources_now: the paths and URLs of this command.
    """
    if then.model != now.model:
        return f"it was begun with --model {then.model}, and this command has --model {now.model}"
    if then.fingerprint != now.fingerprint:
        return f"the model had the fingerprint {then.fingerprint}, and now has {now.fingerprint}"
    if then.pool != now.pool:
        return f"it was begun with {_pool(then)}, and this command has {_pool(now)}"
    if then.shape != now.shape:
        return f"the model returned vectors of shape {list(then.shape)}, and now returns {list(now.shape)}"
    change = _list_change(then, now, sources_then, sources_now)
    return f"the list of images has changed ({change}); a list that you give with --from stays the same"


def _pool(job: Job) -> str:
    return "--pool" if job.pool else "--unpooled"


def _list_change(then: Job, now: Job, sources_then: Sequence[str] | None, sources_now: Sequence[str]) -> str:
    if sources_then is None:
        return f"it had {then.images} images, and now has {now.images}"
    new, missing = set(sources_now) - set(sources_then), set(sources_then) - set(sources_now)
    parts = [f"{_named(names)} {what}" for names, what in ((new, "new"), (missing, "missing")) if names]
    if parts:
        return ", ".join(parts)
    if list(sources_then) == list(sources_now):
        return "it has relative paths, and the command runs in another folder"
    return "it has the same images in another order, or another number of times"


def _named(names: Collection[str]) -> str:
    """The first names and the number of the others, with their verb."""
    first = [source_name(name) for name in sorted(names)[:_MAX_NAMED]]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return f"{', '.join(first)}{more} {'is' if len(names) == 1 else 'are'}"
