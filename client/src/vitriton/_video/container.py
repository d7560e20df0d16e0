"""The file of a video, opened so that FFmpeg reads that file and nothing else, within limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

from vitriton._errors import Unreadable
from vitriton._images.failure import SourceError
from vitriton._options import Options
from vitriton._video.frame import square
from vitriton._video.scan import Scan
from vitriton._video.source import VideoLike, open_source
from vitriton._video.timeline import Timeline

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# The formats that are read, by the names of FFmpeg's demuxers: those of films and cameras. All others are refused,
# among them all that open further files or URLs (concat, hls, dash, sdp, image2, ...).
_FORMATS = (
    *("3g2", "3gp", "asf", "avi", "av1", "dv", "flv", "h264", "hevc", "ivf", "m4a", "m4v", "matroska", "mj2", "mjpeg"),
    *("mov", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "webm", "wtv", "yuv4mpegpipe"),
)
_DURATION = re.compile(r"(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d(\.\d+)?)")
_SLACK_S = 0.5  # a last frame may be shown for as long, and not be counted
_THREADS = 4  # each holds a frame that it decodes
_FALLBACK_RATE = Fraction(25)
_SKIPPING = ("h264", "hevc")  # decoders that leave out a frame which no other needs, if they are told so before it


def import_av() -> Any:
    """Imports PyAV.

    Raises:
        ImportError: it is not installed, or does not work here.
    """
    try:
        import av
    except ImportError as exc:
        raise ImportError(
            f"videos are read by PyAV ({exc}); install it with `pip install 'vitriton[video]'`", name="av"
        ) from exc
    return av


class Container:
    """An open video file. Close it.

    Args:
        video: the path, URL or file; see `open_source`.
        options: the limits.

    Attributes:
        aspect: the width of a pixel divided by its height; None if it is unknown.

    Raises:
        SourceError: the file cannot be read as a video, or exceeds a limit.
        TypeError: the object is no source of a video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, video: VideoLike, options: Options) -> None:
        self._av = import_av()
        self._max_pixels = options.max_image_bytes // 3
        self._source = open_source(video, options)
        self._input: InputContainer | None = None
        self._entries: dict[int, int] = {}  # where to seek to for a key frame, if that is not the time when it is shown
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file. May be called again."""
        if self._input is not None:
            self._input.close()
        if self._source.is_ours:
            self._source.file.close()

    def look_through(self) -> tuple[Timeline, Unreadable | None]:
        """Reads all packets of the video without decoding them.

        Returns:
            The timeline, and what of the file is broken; None if nothing is.

        Raises:
            SourceError: there is no frame.
        """
        scan, problem = Scan(finds_by_shown="matroska" in self._container.format.name), None
        try:
            for packet in self._packets():
                if not _is_last(packet):
                    scan.take(packet)
        except self._av.FFmpegError as exc:
            problem = Unreadable(f"it cannot be read to its end: {_reason(exc)}", "corrupt")
        if not scan.shown:
            raise SourceError("it has no frame that can be read", "corrupt" if problem or scan.damaged else "empty")
        self._entries = scan.entries
        timeline = self._timeline(scan)
        ends_early = timeline.end * timeline.tick_s < self._promised_s() - _SLACK_S
        if scan.is_cut or ends_early or self._stream.frames > scan.total:
            problem = Unreadable(f"the file ends too early, after {scan.shown} frames", "truncated")
        elif scan.damaged:
            problem = Unreadable(f"{scan.damaged} of its {scan.total} frames are damaged", "corrupt")
        return timeline, problem

    def seek(self, tick: int) -> bool:
        """Moves to the key frame that is shown at `tick`, or to an earlier one; returns whether the file allows it."""
        try:
            self._container.seek(self._entries.get(tick, tick), stream=self._stream)
        except self._av.FFmpegError:
            return False
        return True

    def rewind(self) -> None:
        """Moves to the beginning, also where the file does not allow to seek.

        Raises:
            SourceError: the file cannot be read any more.
        """
        self._container.close()
        self._source.file.seek(0)
        self._open()

    def decode(self, wanted: Set[int] | None = None) -> Iterator[VideoFrame]:
        """Decodes from the current position on. A packet that cannot be decoded is left out.

        Args:
            wanted: the times of the frames that are needed, in ticks; others may be left out. None: all are needed.
        """
        context = self._stream.codec_context
        skips = wanted is not None and context.name in _SKIPPING
        try:
            for packet in self._packets():
                if not (packet.size or _is_last(packet)):  # a decoder would take it for the end
                    continue
                if skips and wanted is not None:
                    context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                try:
                    decoded = packet.decode()
                except self._av.FFmpegError:
                    continue
                yield from decoded
        except self._av.FFmpegError:  # `look_through` has met it, too
            return

    @property
    def _container(self) -> InputContainer:
        assert self._input is not None  # from the end of __init__ on
        return self._input

    def _open(self) -> None:
        limit = {"max_pixels": str(self._max_pixels)}
        try:
            self._input = self._av.open(
                self._source.file,
                "r",
                options=limit,
                container_options={"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "none"},
                metadata_errors="replace",
                io_open=_refuse,
            )
        except self._av.FFmpegError as exc:
            raise SourceError(f"it is not a video in a format that is read: {_reason(exc)}", "format") from exc
        self._stream = self._find_stream()
        self.aspect = self._stream.sample_aspect_ratio
        context = self._stream.codec_context
        width, height = square(context.width, context.height, self.aspect)
        if width * height > self._max_pixels:
            raise SourceError(
                f"{width} x {height} pixels are over the limit of {self._max_pixels} (Options.max_image_bytes / 3)",
                "too_large",
            )
        context.options = limit  # the decoder checks it whenever the size changes
        context.thread_type, context.thread_count = "AUTO", _THREADS

    def _find_stream(self) -> VideoStream:
        from av.stream import Discard, Disposition

        streams = self._container.streams
        stream: Any = streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of an album
            raise SourceError(f"it has no video{', only audio' if streams.audio else ''}", "format")
        if stream.codec_context is None:
            raise SourceError("there is no decoder for its video", "format")
        for other in streams:
            if other.index != stream.index:
                other.discard = Discard.all
        found: VideoStream = stream
        return found

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets from the current position on, with an empty one at the end.

        PyAV would go on with those of streams that it does not know yet, and fail (IndexError).
        """
        for packet in self._container.demux(self._stream):
            yield packet
            if _is_last(packet):
                return

    def _promised_s(self) -> float:
        """The time at which the video ends by its header, as Matroska has it for each stream; 0 if it does not tell."""
        found = _DURATION.fullmatch(self._stream.metadata.get("DURATION", ""))
        return 3600 * int(found["h"]) + 60 * int(found["m"]) + float(found["s"]) if found else 0.0

    def _timeline(self, scan: Scan) -> Timeline:
        tick_s, start_us = self._stream.time_base, self._container.start_time
        assert tick_s is not None  # as in every stream that was opened
        start_s = None if start_us is None else Fraction(start_us, 1_000_000)
        rate = self._stream.average_rate or self._stream.guessed_rate or _FALLBACK_RATE
        return scan.timeline(tick_s, start_s, rate)


def _is_last(packet: Packet[VideoStream]) -> bool:
    """Whether this is the empty packet at the end, for which a decoder returns the frames that it still has."""
    return not packet.size and packet.dts is None and packet.pts is None


def _refuse(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    """What FFmpeg calls where a format wants to open another file."""
    raise PermissionError("a video must be one file")


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
