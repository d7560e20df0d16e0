"""The headers of image files, read here where Pillow does not expose them or takes too long."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from PIL import Image

from .limits import Limits
from .memory import Header
from .refusals import ImageError
from .tiff import TIFF_STARTS, Tiff, tiff_pages


def told_before_opening(data: bytes) -> Header | None:
    """The header, for the formats that Pillow decodes or reads at length as soon as it opens them."""
    if data[:4] == b"\0\0\1\0":
        width, height = _icon_size(data)
        return Header("ICO", width, height, len(data))
    if data[:4] in TIFF_STARTS:
        return Tiff(data).header()
    return None


def told_by(image: Image.Image, data: bytes) -> Header:
    """The header of an opened image."""
    hidden = _jpeg_2000_bytes(data) if image.format == "JPEG2000" else 0
    keyed = isinstance(image.info.get("transparency"), tuple)
    return Header(image.format or "", image.width, image.height, len(data) + hidden, keyed)


def unidentified(data: bytes, formats: Sequence[str]) -> ImageError:
    """The error for a file that Pillow does not open. It tells nothing of the content, which may be a secret."""
    for name in formats:
        starts = Image.OPEN[name][1]  # True, or a text in place of a format that this Pillow was built without
        if starts is not None and starts(data[:16]) is True:
            return ImageError(f"the header of this {name} is damaged or cut short; send the whole file", "corrupt")
    looks = "; it looks like text" if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:64]) else ""
    return ImageError(
        f"no image of a known format ({', '.join(formats)}), or cut short in its header{looks}; send a complete file "
        "in one of these formats",
        "format",
    )


def check_frames(image: Image.Image, data: bytes, limits: Limits) -> None:
    """Refuses an opened image with too many frames or pages."""
    most = limits.max_frames or 0
    # Pillow counts these two by reading the whole file, frame by frame.
    counters = {"GIF": _gif_frames, "TIFF": tiff_pages}
    counter = counters.get(image.format or "")
    frames = counter(data, most + 1) if counter else getattr(image, "n_frames", 1)
    if frames > most:
        raise ImageError(f"it has more frames than {limits.named('max_frames')}; send only the first", "too_large")


_MAX_BLOCKS = 1 << 20  # the most blocks of a GIF to read, about 0.2 s


def _gif_frames(data: bytes, most: int) -> int:
    """Counts frames up to `most`; a file with too many blocks counts as `most`. Source: the GIF89a specification."""
    frames, at, blocks = 0, 13 + _gif_colors(data[10]), 0
    while at < len(data) and data[at] != 0x3B and frames < most:
        kind = data[at]
        if kind == 0x2C:
            frames += 1
            at += 11 + _gif_colors(data[at + 9] if at + 9 < len(data) else 0)
        else:
            at += 2 if kind == 0x21 else 1
        if kind in (0x2C, 0x21):
            while at < len(data) and data[at] and blocks < _MAX_BLOCKS:
                at += 1 + data[at]
                blocks += 1
            at += 1
        blocks += 1
        if blocks >= _MAX_BLOCKS:
            return most
    return frames


def _gif_colors(flags: int) -> int:
    """The bytes of a color table."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _icon_size(data: bytes) -> tuple[int, int]:
    """The size of the largest picture in an icon, by the pictures' own headers.

    Source: https://en.wikipedia.org/wiki/ICO_(file_format); each picture is a PNG, or a bitmap without its file header.
    """
    sizes = [(0, 0)]
    for entry in range(22, 22 + 16 * int.from_bytes(data[4:6], "little"), 16):
        start = int.from_bytes(data[entry - 4 : entry], "little")
        header = data[start : start + 24]
        if header.startswith(b"\x89PNG\r\n\x1a\n"):
            sizes.append((int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")))
        else:
            width, height = (int.from_bytes(header[at : at + 4], "little", signed=True) for at in (4, 8))
            sizes.append((abs(width), abs(height)))
    return max(sizes, key=lambda size: size[0] * size[1])


def _jpeg_2000_bytes(data: bytes) -> int:
    """The memory that OpenJPEG takes for tiles and channels; the outer box may state fewer than the codestream.

    Source: ISO/IEC 15444-1, A.5.1 and I.4; opj_j2k_read_siz allocates by tiles × channels.
    """
    at = 0
    while not data.startswith(b"\xff\x4f\xff\x51", at):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start = 16 if length == 1 else 8
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if kind != b"jp2c" and length < 8:
            return 0
        at += start if kind == b"jp2c" else length
        if at >= len(data):
            return 0
    fields = data[at + 8 : at + 42]
    if len(fields) < 34:
        return 0
    numbers: tuple[int, ...] = struct.unpack(">8LH", fields)
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, channels = numbers
    columns, rows = -(-(width - tile_left) // max(tile_width, 1)), -(-(height - tile_top) // max(tile_height, 1))
    tiles = min(max(0, columns) * max(0, rows), 65_535)  # OpenJPEG refuses more
    return tiles * (6000 + 1200 * channels) + 16 * max(0, width - left) * max(0, height - top)
