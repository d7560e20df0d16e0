"""Files that an attacker sends: no images, lies, and what is meant to hurt. The same every time."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from support import awkward
from support.awkward import encode

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
SEED = 5
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "JPEG2000", "AVIF", "PPM")
LARGEST_WITHIN = 13_000  # side of the largest square within Pillow's limit, about
_PNG = b"\x89PNG\r\n\x1a\n"


@cache
def photos() -> tuple[bytes, ...]:
    """Real ones, as they are."""
    return tuple(path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg")))


@cache
def _small_photos() -> tuple[Image.Image, ...]:
    small = []
    for data in photos():
        with Image.open(io.BytesIO(data)) as image:
            small.append(image.convert("RGB").resize((160, 120)))
    return tuple(small)


def truncated() -> list[bytes]:
    """A photo, cut off after every 1 % of it."""
    photo = photos()[0]
    return [photo[: len(photo) * percent // 100] for percent in range(100)]


def noise(count: int = 100) -> list[bytes]:
    """Random bytes, some of them after the first bytes of a real format."""
    generator = np.random.default_rng(SEED)
    starts = [b"", *(encode(_small_photos()[0], format)[:16] for format in FORMATS)]
    return [starts[number % len(starts)] + generator.bytes(1 + number * 97) for number in range(count)]


def fuzzed(count: int = 1000) -> list[bytes]:
    """Real photos in all formats, each with some bytes changed, removed, doubled, swapped or taken from another."""
    chance = random.Random(SEED)
    bases = [encode(photo, format) for photo in _small_photos() for format in FORMATS]
    bases += [encode(photo, "JPEG", progressive=True) for photo in _small_photos()]
    return [_mutated(chance, chance.choice(bases), chance.choice(bases)) for _ in range(count)]


def _mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20, 100))):
        # headers are where the lies are told
        at = chance.randrange(min(len(changed), 400) if chance.random() < 0.5 else len(changed))
        length = min(chance.choice((1, 2, 4, 16, 300)), len(changed) - at)
        kind = chance.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 2 and len(changed) > 500:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        else:
            start = chance.randrange(len(other))
            changed[at : at + length] = other[start : start + length]
    return bytes(changed)


def bombs() -> dict[str, bytes]:
    """Small files that are, or say that they are, something huge; all of them are refused."""
    lying = {name: file.data for name, file in awkward.refused().items() if name.startswith("bomb")}
    return {
        **lying,
        "thin.png": png_of_zeros(1, 100_000_000),
        "flat.png": png_of_zeros(100_000_000, 1),
        "bomb.webp": webp_canvas(16_384, 16_384),
        "resolution.tiff": tiff_with(TiffImagePlugin.X_RESOLUTION, 5, 8_000_000),
        "strips.tiff": tiff_with(TiffImagePlugin.STRIPOFFSETS, 4, 8_000_000),
        "tile.tiff": tiff_with(TiffImagePlugin.TILEWIDTH, 4, 1, 1 << 20),
        "tiles.jp2": jpeg_2000_of_tiles(255, 3),
        "channels.jp2": jpeg_2000_of_tiles(16, 16_384),
    }


def within_limits(side: int = LARGEST_WITHIN) -> dict[str, bytes]:
    """Small files of large pictures that are taken, and of which several at a time would not fit."""
    gray, color = Image.new("L", (side, side), 77), Image.new("RGB", (side // 2, side // 2), (9, 99, 199))
    return {
        "large.png": png_of_zeros(side, side),
        "large.gif": encode(gray, "GIF"),
        "large.tiff": encode(gray, "TIFF", compression="tiff_deflate"),
        "large.jpg": encode(color, "JPEG", progressive=True),
        "large.webp": encode(color, "WEBP", method=0),
        "large.jp2": encode(color.resize((side // 4, side // 4)), "JPEG2000"),
    }


def many_frames(count: int = 100_000) -> dict[str, bytes]:
    """Animations and pages without end, of which the first is an ordinary picture: they are taken."""
    return {
        "frames.gif": gif_of_frames(count),
        "loop.tiff": tiff_loop(),
        "frames.webp": webp_of_frames(count),
    }


def oversized(size: int) -> bytes:
    """A photo with so much behind it that it has `size` bytes."""
    photo = photos()[0]
    return photo + bytes(size - len(photo))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int) -> bytes:
    """One bit a pixel; compressed in bands, so that making it costs nothing."""
    row = bytes(1 + (width + 7) // 8)
    rows = max(1, (1 << 20) // len(row))
    compress = zlib.compressobj(9)
    data = b"".join(compress.compress(row * min(rows, height - top)) for top in range(0, height, rows))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return _PNG + chunk(b"IHDR", header) + chunk(b"IDAT", data + compress.flush()) + chunk(b"IEND", b"")


def png_with_exif(entries: int) -> bytes:
    """A picture whose Exif says that its orientation is a list of fractions."""
    values = struct.pack("<LL", 6, 1) * entries
    exif = b"II*\0" + struct.pack("<LH", 8, 1) + struct.pack("<HHLL", 0x0112, 5, entries, 26) + struct.pack("<L", 0)
    png = encode(_small_photos()[0], "PNG")
    return png[:33] + chunk(b"eXIf", exif + values) + png[33:]


def gif_of_frames(count: int) -> bytes:
    """The photo once, and then `count` frames of one pixel."""
    first = encode(_small_photos()[0].quantize(16), "GIF")
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return first[:-1] + frame * count + b";"


def tiff_loop() -> bytes:
    """The page after the first is the first."""
    data = bytearray(encode(_small_photos()[0], "TIFF"))
    (start,) = struct.unpack_from("<L", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<L", data, start + 2 + 12 * entries, start)
    return bytes(data)


def tiff_with(tag: int, kind: int, count: int, value: int = 0) -> bytes:
    """A picture with a tag of so many values (all 1), or with this one."""
    data = bytearray(encode(_small_photos()[0], "TIFF", compression="tiff_deflate" if value else None))
    (start,) = struct.unpack_from("<L", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    table = bytes(data[start + 2 : start + 2 + 12 * entries])
    fields = [table[at : at + 12] for at in range(0, len(table), 12)]
    kept = {struct.unpack_from("<H", field)[0]: field for field in fields}
    if value:  # two tags that make a tile
        for side in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH):
            kept[side] = struct.pack("<HHLL", side, 4, 1, value)
    else:
        kept[tag] = struct.pack("<HHLL", tag, kind, count, len(data))
        data += (struct.pack("<LL", 1, 1) if kind == 5 else struct.pack("<L", 8)) * count
    struct.pack_into("<L", data, 4, len(data))
    directory = b"".join(kept[number] for number in sorted(kept))
    return bytes(data) + struct.pack("<H", len(kept)) + directory + struct.pack("<L", 0)


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<L", 4 + len(chunks)) + b"WEBP" + chunks


def _riff_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<L", len(data)) + data + bytes(len(data) % 2)


def _webp_header(width: int, height: int) -> bytes:
    sides = struct.pack("<L", width - 1)[:3] + struct.pack("<L", height - 1)[:3]
    return _riff_chunk(b"VP8X", b"\2\0\0\0" + sides) + _riff_chunk(b"ANIM", bytes(6))


def _webp_frame(picture: Image.Image) -> bytes:
    sides = struct.pack("<L", picture.width - 1)[:3] + struct.pack("<L", picture.height - 1)[:3]
    return _riff_chunk(b"ANMF", bytes(6) + sides + bytes(4) + encode(picture, "WEBP", lossless=True)[12:])


def webp_canvas(width: int, height: int) -> bytes:
    """An animation of a pixel on a large canvas."""
    return _riff(_webp_header(width, height) + _webp_frame(Image.new("RGB", (1, 1))))


def webp_of_frames(count: int) -> bytes:
    """The photo once, and then `count` frames of one pixel."""
    photo = _small_photos()[0]
    return _riff(_webp_header(*photo.size) + _webp_frame(photo) + _webp_frame(Image.new("RGB", (1, 1))) * count)


def jpeg_2000_of_tiles(side: int, channels: int) -> bytes:
    """Inside, a picture of side × side tiles of one pixel; outside, an ordinary one."""
    data = bytearray(encode(_small_photos()[0], "JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">8LH", data, at, side, side, 0, 0, 1, 1, 0, 0, channels)
    return bytes(data)


def files(*, fuzz: int, frames: int) -> Iterator[tuple[str, bytes]]:
    """All of them by name, the ones that make up the corpus of a pass."""
    yield from bombs().items()
    yield from many_frames(frames).items()
    yield "exif.png", png_with_exif(1_000_000)
    groups: dict[str, Sequence[bytes]] = {"truncated": truncated(), "noise": noise(), "fuzzed": fuzzed(fuzz)}
    for name, group in groups.items():
        yield from ((f"{name}-{number}", data) for number, data in enumerate(group))
