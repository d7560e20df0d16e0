"""Films whose frames show their number, as a bar code of blocks that survives coding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

av = pytest.importorskip("av")

WIDTH, HEIGHT = 128, 64
COLUMNS, ROWS = 8, 2  # sixteen bits, the lowest on the left of the upper row


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A frame that shows a number, (height, width, 3) uint8."""
    bits = np.array([number >> bit & 1 for bit in range(COLUMNS * ROWS)]).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    gray = np.where(bits[rows][:, columns], 215, 40).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def number_in(image: NDArray[np.uint8]) -> int:
    """The number that a frame shows; -1 if a block is not clear."""
    height, width = image.shape[0] // ROWS, image.shape[1] // COLUMNS
    bits = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            block = image[row * height : (row + 1) * height, column * width : (column + 1) * width]
            light = block[height // 4 : -(height // 4), width // 4 : -(width // 4)].mean()
            if 100 < light < 155:
                return -1
            bits |= int(light > 128) << (row * COLUMNS + column)
    return bits


def write(
    path: Path,
    count: int = 100,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    gop: int = 50,
    ticks: Sequence[int] | None = None,
    tick_s: Fraction | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    images: Sequence[NDArray[np.uint8]] | None = None,
    rotation: tuple[int, bool, bool] | None = None,
    aspect: Fraction | None = None,
    audio: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    color: tuple[int, int] | None = None,
) -> list[float]:
    """Makes a film; returns the time of each frame in seconds, as it was given to the encoder.

    Args:
        path: the file, whose suffix is the format.
        count: the number of frames.
        codec: the encoder.
        pix_fmt: the pixel format.
        rate: the frames per second.
        gop: the largest distance between two key frames.
        ticks: the time of each frame in ticks; None: a constant rate.
        tick_s: the duration of a tick; None: that of a frame.
        size: the width and the height.
        images: the frames, RGB; None: each shows its number.
        rotation: what the display matrix says: degrees counterclockwise, and whether to flip horizontally, vertically.
        aspect: the width of a pixel divided by its height.
        audio: whether there is a sound, too.
        options: the encoder's options.
        container_options: the format's options.
        color: the numbers of matrix (AVCOL_SPC) and range (1: limited, 2: full) that are written and used.
    """
    tick = 1 / Fraction(rate) if tick_s is None else tick_s
    times = range(count) if ticks is None else ticks
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = tick
        stream.codec_context.gop_size = gop
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        if color is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = color
        sound: Any = container.add_stream("aac", rate=48000) if audio else None
        for number in range(count):
            image = picture(number, *size) if images is None else images[number]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if color is not None:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=_sws(color[0]), dst_color_range=color[1])
            frame.pts, frame.time_base = times[number], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            write_sound(container, sound, float(count * tick))
    return [float(times[number] * tick) for number in range(count)]


def write_sound(container: Any, stream: Any, duration_s: float) -> None:
    """Adds a quiet hiss to a film."""
    noise = np.random.default_rng(0)
    for start in range(0, int(duration_s * 48000), 1024):
        frame = av.AudioFrame.from_ndarray(noise.normal(0, 0.01, (1, 1024)).astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def shown(times_s: Sequence[float], every_s: float, end_s: float) -> list[int]:
    """The numbers of the frames that are shown at 0, every_s, ..., each once: the slow way."""
    numbers: list[int] = []
    index = 0
    while (time_s := index * every_s) < end_s - 1e-6:
        number = max([number for number, start_s in enumerate(times_s) if start_s <= time_s + 1e-6], default=0)
        if number not in numbers:
            numbers.append(number)
        index += 1
    return numbers


def _sws(matrix: int) -> int:
    """The number of a matrix for the converter, which has one for both forms of BT.601."""
    return 5 if matrix == 6 else matrix
