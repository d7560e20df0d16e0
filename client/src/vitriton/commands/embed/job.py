"""The work of a run, and how it differs from that of an interrupted run, in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vitriton._console.progress import count
from vitriton._images.sources import source_name
from vitriton._repository.names import Tower

Shape = tuple[int | None, ...]  # of an embedding; None: each one has its own number of tokens

_MAX_NAMED = 3  # inputs named in a message


class Name(NamedTuple):
    """What the output files identify an input by.

    Attributes:
        source: the path or URL of an image or a video, or the name of a text; it contains no null character.
        time_s: the time of a frame in its video, in seconds; None for any other input.
        frame: the number of the frame; None for any other input.
    """

    source: str
    time_s: float | None = None
    frame: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of a run; two runs with equal jobs are the same run.

    Attributes:
        model: the name that the model was exported under.
        fingerprint: the fingerprint of the embedding space.
        pool: whether the embeddings are pooled.
        shape: the shape of one embedding; None is the number of tokens, if each text has its own.
        inputs: the number of images or texts.
        inputs_sha256: the hash of the list of images, or of the file of texts.
        tower: the tower of the model, which is also the noun for an input: "image" or "text".
        prompt: the name of the prompt that is put before each text; None if there is none.
        kept: the number of inputs whose embeddings come from the output that the run adds to; None without --append.
        every_s: the distance between two frames of a video, in seconds; None if there are no videos.
        id_column: the column with the names of the inputs in the output; None if these are paths, URLs or lines.
    """

    model: str
    fingerprint: str
    pool: bool
    shape: Shape
    inputs: int
    inputs_sha256: str
    tower: Tower = "image"
    prompt: str | None = None
    kept: int | None = None
    every_s: float | None = None
    id_column: str | None = None

    @property
    def is_ragged(self) -> bool:
        """Whether each embedding has its own number of tokens."""
        return None in self.shape

    @property
    def width(self) -> int:
        """The number of floats of an embedding, or of one token of it if it is ragged."""
        return math.prod(size for size in self.shape if size is not None)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an embedding has the job's shape."""
        return len(shape) == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(self.shape, shape, strict=True)
        )


def job_change(then: Job, now: Job, names_then: Iterable[Name], names_now: Iterable[Name]) -> str:
    """The first difference between two jobs, as a sentence.

    Args:
        then: the job of the interrupted run.
        now: the job of this command; it differs.
        names_then: the names of the interrupted run's images or texts.
        names_now: the names of this command's.
    """
    if then.tower != now.tower:
        return f"it was begun with {then.tower}s, and this command has {now.tower}s"
    if then.model != now.model:
        return f"it was begun with --model {then.model}, and this command has --model {now.model}"
    if then.fingerprint != now.fingerprint:
        return f"the model had the fingerprint {then.fingerprint}, and now has {now.fingerprint}"
    if then.pool != now.pool:
        return f"it was begun with {_pool(then)}, and this command has {_pool(now)}"
    if then.shape != now.shape:
        return f"the model returned vectors of shape {list(then.shape)}, and now returns {list(now.shape)}"
    if then.prompt != now.prompt:
        return f"it was begun with {_prompt(then)}, and this command has {_prompt(now)}"
    if (then.kept is None) != (now.kept is None):
        return f"it was begun {_append(then)}, and this command is {_append(now)}"
    if then.every_s != now.every_s:
        return f"it was begun with {_every(then)}, and this command has {_every(now)}"
    if then.id_column != now.id_column:
        return f"it was begun with {_ids(then)}, and this command has {_ids(now)}"
    if then.tower == "text":
        return f"the file of texts has changed ({_file_change(then, now)})"
    change = _list_change(list(names_then), list(names_now))
    return f"the list of images has changed ({change}); a list that you give with --from stays the same"


def _pool(job: Job) -> str:
    return "--pool" if job.pool else "--unpooled"


def _prompt(job: Job) -> str:
    return "no prompt" if job.prompt is None else f"--prompt {job.prompt}"


def _append(job: Job) -> str:
    return "without --append" if job.kept is None else "with --append"


def _every(job: Job) -> str:
    return "no --every" if job.every_s is None else f"--every {job.every_s:g}s"


def _ids(job: Job) -> str:
    return "no --id-column" if job.id_column is None else f"--id-column {job.id_column}"


def _file_change(then: Job, now: Job) -> str:
    if then.inputs != now.inputs:
        return f"it had {count(then.inputs, 'text')}, and now has {now.inputs}"
    return "another name, another content, or other columns of it"


def _list_change(names_then: Sequence[Name], names_now: Sequence[Name]) -> str:
    new, missing = set(names_now) - set(names_then), set(names_then) - set(names_now)
    parts = [f"{_named(names)} {what}" for names, what in ((new, "new"), (missing, "missing")) if names]
    if parts:
        return ", ".join(parts)
    if names_then == names_now:
        return "it has relative paths, and the command runs in another folder"
    return "it has the same images in another order, or another number of times"


def _named(names: Collection[Name]) -> str:
    """The first names and the number of the others, with their verb."""
    first = [_shown(name) for name in sorted(names, key=lambda name: (name.source, name.time_s or 0))[:_MAX_NAMED]]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return f"{', '.join(first)}{more} {'is' if len(names) == 1 else 'are'}"


def _shown(name: Name) -> str:
    at = "" if name.time_s is None else f" at {name.time_s:.3f} s"
    return source_name(name.source) + at
