"""The frames of an open video, by their numbers or by its scenes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from vitriton._errors import InvalidVideo, Unreadable
from vitriton._images.failure import SourceError
from vitriton._images.sources import source_name
from vitriton._options import Options
from vitriton._video.container import Container, import_av
from vitriton._video.frame import Frame, picture
from vitriton._video.scenes import Cuts
from vitriton._video.source import VideoLike
from vitriton._video.timeline import Timeline

_THUMBNAIL = (64, 36)  # width and height
_BEGUN = 8


class Shown(NamedTuple):
    """A decoded frame.

    Attributes:
        tick: the time at which it is first shown, in ticks.
        frame: the frame, of PyAV.
    """

    tick: int
    frame: Any


_NOTHING, _END = Shown(-(2**63), None), Shown(2**63, None)  # before the first frame, and after the last


class Video:
    """An open video that was looked through. Use it in a `with` block, or close it.

    Args:
        video: the path or http(s) URL, or a seekable binary file.
        options: the limits.

    Attributes:
        name: the name of the video, for messages.
        timeline: when its frames are shown.
        problem: what of the file is broken, although there are frames; None if nothing is.

    Raises:
        InvalidVideo: there is no frame that can be read, or the video exceeds a limit.
        TypeError: the object is no source of a video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, video: VideoLike, options: Options) -> None:
        self.name = source_name(video)
        with self._named():
            self._container = Container(video, options)
            self._converter = import_av().video.reformatter.VideoReformatter()
            try:
                self.timeline, self.problem = self._container.look_through()
            except BaseException:
                self._container.close()
                raise

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. May be called again."""
        self._container.close()

    def read(self, numbers: Sequence[int]) -> Iterator[Frame | Unreadable]:
        """Decodes the frames of these ascending numbers; yields for each the frame, or why there is none.

        Raises:
            InvalidVideo: the file cannot be read any more.
        """
        timeline = self.timeline
        cursor = _Cursor(self._container, timeline, frozenset(timeline.ticks[number] for number in numbers))
        for number in numbers:
            with self._named():
                shown = cursor.at(number)
            if shown is None:
                yield Unreadable(f"the frame at {timeline.time_s(number):.3f} s cannot be decoded", "corrupt")
            else:
                yield self._frame(shown)

    def scenes(self) -> Iterator[Frame | Unreadable]:
        """Decodes all frames; yields the first of each scene, or why it cannot be shown.

        Raises:
            InvalidVideo: the file cannot be read any more.
        """
        from av.video.reformatter import Interpolation, VideoReformatter

        width, height = _THUMBNAIL
        shrink, cuts = VideoReformatter(), Cuts()
        cursor = _Cursor(self._container, self.timeline, None)
        with self._named():
            cursor.rewind()
        while (shown := cursor.next()) is not None:
            try:
                small = shrink.reformat(shown.frame, width, height, "gray", interpolation=Interpolation.AREA, threads=1)
            except import_av().FFmpegError as exc:
                yield Unreadable(f"its frames cannot be compared: {exc}", "corrupt")
                return
            if cuts.is_first(np.asarray(small.to_ndarray(), np.uint8)):
                yield self._frame(shown)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Gives the error of a file the name of the video."""
        try:
            yield
        except SourceError as exc:
            raise InvalidVideo(self.name, str(exc), exc.code) from exc

    def _frame(self, shown: Shown) -> Frame | Unreadable:
        number = self.timeline.number(shown.tick)
        time_s = self.timeline.time_s(number)
        try:
            image = picture(shown.frame, self._container.aspect, self._converter)
        except import_av().FFmpegError as exc:
            return Unreadable(f"the frame at {time_s:.3f} s cannot be converted to RGB: {exc}", "corrupt")
        return Frame(image, time_s, number, shown.frame.interlaced_frame)


class _Cursor:
    """Moves forward through a video, frame by frame, and seeks where that skips frames.

    Args:
        container: the file.
        timeline: when its frames are shown.
        wanted: the ticks of the frames that `at` will be asked for. None: all.
    """

    def __init__(self, container: Container, timeline: Timeline, wanted: Set[int] | None) -> None:
        self._container = container
        self._timeline = timeline
        self._wanted = None if timeline.is_counted else wanted
        self._can_seek = not timeline.is_counted
        self._rest: Iterator[Shown] | None = None  # None: the position is unknown
        self._before = self._last = _NOTHING  # the frames that were decoded last

    def at(self, number: int) -> Shown | None:
        """The frame of this number, which is not below that of the call before; None if it cannot be decoded.

        If the decoder passes over the frame (VP8 has such frames, which others refer to), it is the one before, as in
        players.
        """
        tick = self._timeline.ticks[number]
        if self._last.tick < tick:
            self._approach(tick)
        self._reach(tick)
        if self._last.tick == tick:
            return self._last
        is_next = number > 0 and self._before.tick == self._timeline.ticks[number - 1]
        return self._before if is_next else None

    def rewind(self) -> None:
        """Moves before the first frame, also where the file does not allow to seek.

        Raises:
            SourceError: the file cannot be read any more.
        """
        self._container.rewind()
        self._begin()

    def next(self) -> Shown | None:
        """The next frame that can be decoded; None after the last."""
        shown = self._last
        if shown is _END:
            return None
        self._step()
        return shown

    def _approach(self, tick: int) -> None:
        """Moves to the last key frame at or before `tick`, if that skips frames."""
        key = self._timeline.key(tick)
        if self._can_seek and key is not None and self._skips(key):
            self._can_seek = self._container.seek(key)
            if self._can_seek:
                self._begin()
                self._reach(tick)
                self._can_seek = self._last.tick == tick  # else the index of the file is wrong, or the frame is broken
            if not self._can_seek:
                self.rewind()
        elif self._rest is None:
            self.rewind()

    def _reach(self, tick: int) -> None:
        """Decodes up to the first frame at or after `tick`."""
        while self._last.tick < tick:
            self._step()

    def _skips(self, key: int) -> bool:
        """Whether a move to a key frame skips more frames than the decoder has begun."""
        number = self._timeline.number
        return self._rest is None or number(key) - number(self._last.tick) > _BEGUN

    def _begin(self) -> None:
        """Decodes the first frame at the position."""
        decoded = self._container.decode(self._wanted)
        if self._timeline.is_counted:
            self._rest = itertools.starmap(Shown, zip(self._timeline.ticks, decoded, strict=False))
        else:
            self._rest = (Shown(frame.pts, frame) for frame in decoded if frame.pts is not None)
        self._last = _NOTHING
        self._step()

    def _step(self) -> None:
        assert self._rest is not None  # as after `_begin`
        self._before, self._last = self._last, next(self._rest, _END)
