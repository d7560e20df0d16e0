"""The work of a run, and how it differs from that of an interrupted run, in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vitriton._images.sources import source_name

_FLOAT_BYTES = 4
_BLOCK_BYTES = 64 * 1024 * 1024
_MAX_NAMED = 3  # images named in a message


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of a run; two runs with equal jobs are the same run.

    Attributes:
        model: the name that the model was exported under.
        fingerprint: the fingerprint of the embedding space.
        pool: whether the embeddings are pooled.
        shape: the shape of one embedding.
        images: the number of images.
        images_sha256: the hash of the list of images.
    """

    model: str
    fingerprint: str
    pool: bool
    shape: tuple[int, ...]
    images: int
    images_sha256: str

    @property
    def row_bytes(self) -> int:
        """The bytes of one embedding as float32."""
        return math.prod(self.shape) * _FLOAT_BYTES

    def block_rows(self) -> int:
        """The number of embeddings that a copy holds in memory; at least one."""
        return max(1, _BLOCK_BYTES // self.row_bytes)


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
