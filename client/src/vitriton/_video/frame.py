"""From a decoded frame to the picture that a viewer sees."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

Picture = NDArray[np.uint8]

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_SD_HEIGHT, _SD_WIDTH = 576, 1024  # the largest size of standard definition
_MATRIX_BYTES = 36  # of nine int32
_LEAST = Fraction(1, 8)  # the aspect of a pixel in a format of any camera is nearer to 1


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        image: the picture as a viewer sees it, (H, W, 3) uint8, RGB: rotated, and with square pixels.
        time_s: the time at which the frame is first shown, in seconds from the start of the video.
        number: the number of the frame in the video, in the order in which frames are shown, from 0.
        is_interlaced: whether the picture is woven from two fields, of two moments, line by line.
    """

    image: NDArray[np.uint8]
    time_s: float
    number: int
    is_interlaced: bool = False


def picture(frame: VideoFrame, aspect: Fraction | None, converter: VideoReformatter) -> Picture:
    """The picture of a decoded frame, (H, W, 3) uint8, RGB.

    Args:
        frame: the decoded frame, in any pixel format.
        aspect: the width of a pixel divided by its height; None if it is unknown.
        converter: the converter, which keeps what it needs from one frame to the next.

    Raises:
        av.FFmpegError: the pixel format cannot be converted.
    """
    from av.video.reformatter import ColorRange, Interpolation

    width, height = square(frame.width, frame.height, aspect)
    converted = converter.reformat(
        frame,
        width,
        height,
        "rgb24",
        src_colorspace=_matrix(frame),
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND,
        threads=1,
    )
    return _upright(np.asarray(converted.to_ndarray(), np.uint8), _display_matrix(frame))


def square(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The width and height of a picture with square pixels: the shorter side of a pixel is stretched.

    An aspect that no camera has is not believed.
    """
    if aspect is None or not _LEAST <= aspect <= 1 / _LEAST:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _matrix(frame: VideoFrame) -> int | None:
    """The matrix from YUV to RGB where the file does not tell: BT.709 for HD, as players do, and BT.601 below it."""
    from av.video.reformatter import Colorspace

    if frame.format.is_rgb or frame.colorspace != _UNSPECIFIED:
        return None
    is_sd = frame.height <= _SD_HEIGHT and frame.width <= _SD_WIDTH
    return Colorspace.ITU601 if is_sd else Colorspace.ITU709


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """The part of the display matrix that rotates and flips: x' = a·x + c·y, y' = b·x + d·y; None if there is none."""
    side_data: Iterable[Any] = frame.side_data  # the stubs take it for a dict
    data = next((bytes(each) for each in side_data if each.type.name == "DISPLAYMATRIX"), b"")
    if len(data) < _MATRIX_BYTES:
        return None
    a, b, _, c, d = np.frombuffer(data, np.int32, count=5).tolist()
    return a, b, c, d


def _upright(image: Picture, matrix: tuple[int, int, int, int] | None) -> Picture:
    """Rotates and flips a picture by the display matrix, to the nearest quarter of a turn."""
    if matrix is None:
        return image
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        right, down = a, d
    else:
        image, right, down = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])
