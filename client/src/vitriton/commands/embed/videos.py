"""The frames of a run's videos, beside its images."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from vitriton._console.failure import CommandFailed
from vitriton._console.inputs import Inputs, is_video
from vitriton._console.progress import step
from vitriton._errors import InvalidVideo, Unreadable
from vitriton._options import Options
from vitriton._video.container import import_av
from vitriton._video.reading import Video
from vitriton.commands.embed.inputs import BulkImages
from vitriton.commands.embed.job import Name

if TYPE_CHECKING:
    from vitriton._call.results import Result
    from vitriton._client import Client
    from vitriton._video.frame import Picture


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video of a run: which of its frames are embedded.

    Attributes:
        source: the path or URL of the video.
        numbers: the numbers of the frames.
        times_s: the times of the frames, in seconds.
        problem: what of the video is broken, which is one more input that cannot be embedded; None if nothing is.
    """

    source: str
    numbers: array[int] = field(default_factory=lambda: array("q"))
    times_s: array[float] = field(default_factory=lambda: array("d"))
    problem: Unreadable | None = None

    @classmethod
    def look_through(cls, source: str, every_s: float) -> Film:
        """Finds the frames of a video that are shown every so many seconds."""
        try:
            with Video(source, Options()) as video:
                numbers = video.timeline.every(every_s)
                times_s = array("d", map(video.timeline.time_s, numbers))
                return cls(source=source, numbers=numbers, times_s=times_s, problem=video.problem)
        except InvalidVideo as exc:
            return cls(source=source, problem=Unreadable(exc.reason, exc.code))

    @property
    def total(self) -> int:
        """The number of inputs that it gives."""
        return len(self.numbers) + (self.problem is not None)

    def names(self, name: str) -> Iterator[Name]:
        """Yields the name of each input, with that of the video."""
        for time_s, number in zip(self.times_s, self.numbers, strict=True):
            yield Name(name, time_s, number)
        if self.problem is not None:
            yield Name(name)

    def images(self, first: int, every_s: float) -> Iterator[Picture | Unreadable]:
        """Yields the inputs from an index on.

        Raises:
            CommandFailed: the video is another one than when it was looked through.
        """
        if first < len(self.numbers):
            try:
                with Video(self.source, Options()) as video:
                    if video.timeline.every(every_s) != self.numbers:
                        raise CommandFailed(f"{self.source} was changed during the run; begin again with --no-resume")
                    for frame in video.read(self.numbers[first:]):
                        yield frame if isinstance(frame, Unreadable) else frame.image
            except InvalidVideo as exc:
                raise CommandFailed(f"{self.source} cannot be read any more: {exc.reason}") from exc
        if self.problem is not None:
            yield self.problem


class BulkFrames(BulkImages):
    """The images of a run, and frames of its videos.

    Args:
        inputs: the paths and URLs of both.
        every_s: the distance between two frames of a video, in seconds.
        quiet: whether to show nothing while the videos are looked through.

    Raises:
        CommandFailed: PyAV is missing.
    """

    def __init__(self, inputs: Inputs, every_s: float, *, quiet: bool) -> None:
        super().__init__(inputs)
        self.every_s: float = every_s
        self._parts: list[str | Film] = []
        for source in inputs.sources:
            if is_video(source):
                self._check_av()
                with step(f"Looking through {source}", quiet=quiet):
                    self._parts.append(Film.look_through(source, every_s))
            else:
                self._parts.append(source)
        self._ends = list(accumulate(map(_total, self._parts)))  # for each part, the number of inputs up to its end
        self.total = self._ends[-1] if self._ends else 0

    def sha256(self) -> str:
        """The hash of the list, and of the times of all frames; the contents are not compared."""
        digest = hashlib.sha256(super().sha256().encode())
        for part in self._parts:
            if isinstance(part, Film):
                digest.update(b"%d\0" % part.total + part.times_s.tobytes())
        return digest.hexdigest()

    def names(self) -> Iterator[Name]:
        """See `BulkInputs`."""
        for name, part in zip(self._inputs.names, self._parts, strict=True):
            if isinstance(part, Film):
                yield from part.names(name)
            else:
                yield Name(name)

    def stream(self, client: Client, first: int, *, pool: bool) -> Generator[Result, None, None]:
        """See `BulkInputs`."""
        images: Iterator[Any] = self._images(first)
        return client.stream(images, pool=pool, on_error="return")

    def _images(self, first: int) -> Iterator[str | Picture | Unreadable]:
        """Yields the inputs from an index on."""
        for part in self._parts:
            if first >= _total(part):
                first -= _total(part)
            elif isinstance(part, Film):
                yield from part.images(first, self.every_s)
                first = 0
            else:
                yield part

    def _source(self, index: int) -> str:
        return self._inputs.sources[bisect(self._ends, index)]

    @staticmethod
    def _check_av() -> None:
        try:
            import_av()
        except ImportError as exc:
            raise CommandFailed(str(exc)) from exc


def _total(part: str | Film) -> int:
    return part.total if isinstance(part, Film) else 1
