"""The frames of a video, as images for a client: one a second, for example, or the first of each scene.

    for frame in frames("film.mp4", every_s=2):
        print(frame.time_s, frame.image.shape)

Importing this module does not import PyAV, which decodes; it comes with the extra `vitriton[video]`.
"""

from __future__ import annotations

from collections.abc import Iterator

from vitriton._errors import InvalidVideo, Unreadable
from vitriton._keywords import suggests_keywords
from vitriton._options import Options, check_flag, check_seconds
from vitriton._video.frame import Frame
from vitriton._video.reading import Video
from vitriton._video.source import VideoLike

__all__ = ["Frame", "VideoLike", "frames"]

_EVERY_S = 1.0


@suggests_keywords
def frames(
    video: VideoLike, *, every_s: float | None = None, scene: bool = False, options: Options | None = None
) -> Iterator[Frame]:
    """Yields the frames of a video that are shown at 0, `every_s`, 2 × `every_s` and so on, or the first of each scene.

    A frame that is shown at several of these times is yielded once. The memory does not grow with the length of the
    video, except by 8 bytes for each of its frames, whose times are read before the first one is decoded.

    Args:
        video: the path or http(s) URL of the video, or a seekable binary file. A URL is fetched into memory, within
            the same limits as the URL of an image.
        every_s: the distance between two frames, in seconds. None: 1, or no fixed distance with `scene`.
        scene: whether to yield the first frame of each scene, in place of frames at equal distances. All frames are
            decoded for that.
        options: the limits for fetching a URL, and `max_image_bytes`, which a frame (width × height × 3) must not
            exceed. None: the defaults.

    Yields:
        The frames, in the order in which they are shown.

    Raises:
        InvalidVideo: the video cannot be read; if a part of it can be read, after the frames of that part.
        ValueError, TypeError: an argument is invalid.
        ImportError: PyAV is not installed.
    """
    check_flag("scene", scene)
    if every_s is not None:
        check_seconds("every_s", every_s)
        if scene:
            raise ValueError(f"every_s is {every_s:g} and scene is True; give one of the two")
    return _frames(video, None if scene else every_s or _EVERY_S, options or Options())


def _frames(source: VideoLike, every_s: float | None, options: Options) -> Iterator[Frame]:
    """Yields the frames of `frames`; `every_s` is None for scenes."""
    broken: list[Unreadable] = []
    number = -1
    with Video(source, options) as video:
        for frame in video.scenes() if every_s is None else video.read(video.timeline.every(every_s)):
            if isinstance(frame, Unreadable):
                broken.append(frame)
            elif frame.number > number:  # a decoder may give one frame for two times
                number = frame.number
                yield frame
        problem = video.problem
    if problem is not None:
        raise InvalidVideo(video.name, problem.reason, problem.code)
    if broken:
        others = f", and {len(broken) - 1} more frames" if len(broken) > 1 else ""
        raise InvalidVideo(video.name, f"{broken[0].reason}{others}", broken[0].code)
