"""Awkward images, made by code: what cameras, browsers, editors and attackers make of a picture."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin
from vitriton_export._parity.corpus import corpus

WIDTH, HEIGHT = 96, 64
_ORIENTATION = 0x0112  # Exif and TIFF tag
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → color type


@dataclass(frozen=True)
class Refused:
    """A file that is refused.

    Attributes:
        data: the file.
        reason: what the text of the refusal holds.
        code: the kind of the reason; several where the file's end hides which.
        reference: whether transformers "fails" on it as well, or "takes" it: then we differ, on purpose.
    """

    data: bytes
    reason: str
    code: str = "format"
    reference: str = "fails"


@cache
def taken() -> dict[str, bytes]:
    """Files that we and the reference take, by file name; the same every time."""
    groups = (_orientations, _modes, _depths, _animations, _encodings, _shapes, _liars, _profiles)
    files: dict[str, bytes] = {}
    for group in groups:
        made = group(_photo())
        assert not made.keys() & files.keys()
        files |= made
    return files


@cache
def refused() -> dict[str, Refused]:
    """Files that we refuse, by name."""
    return {**_no_images(), **_truncated(), **_bombs(), **_without_pixels(), **_other_formats()}


@cache
def _photo() -> Image.Image:
    with Image.open(io.BytesIO(corpus()["cat.jpg"])) as image:
        return image.convert("RGB").resize((WIDTH, HEIGHT))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _orientations(photo: Image.Image) -> dict[str, bytes]:
    files = {}
    for orientation in range(10):  # 0 and 9 mean nothing
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        files[f"orientation-{orientation}.jpg"] = encode(photo, "JPEG", exif=exif)
    exif[_ORIENTATION] = 6
    for format in ("PNG", "WEBP", "AVIF"):
        files[f"orientation-6.{format.lower()}"] = encode(photo, format, exif=exif)
    files["orientation-6.tiff"] = encode(photo, "TIFF", tiffinfo={_ORIENTATION: 6})
    files["exif-garbage.jpg"] = encode(photo, "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    return files


def _modes(photo: Image.Image) -> dict[str, bytes]:
    gray, palette = photo.convert("L"), photo.quantize(32)
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, WIDTH, dtype=np.uint8), (HEIGHT, 1)))
    rgba, la = photo.copy(), gray.copy()
    rgba.putalpha(ramp)
    la.putalpha(ramp)
    return {
        "mode-1.png": encode(photo.convert("1"), "PNG"),
        "mode-1.tiff": encode(photo.convert("1"), "TIFF", compression="group4"),
        "mode-l.jpg": encode(gray, "JPEG"),
        "mode-l-color-key.png": encode(gray, "PNG", transparency=128),
        "mode-la.png": encode(la, "PNG"),
        "mode-la.tiff": encode(la, "TIFF"),
        "mode-p.png": encode(palette, "PNG"),
        "mode-p.gif": encode(palette, "GIF"),
        "mode-p.bmp": encode(palette, "BMP"),
        "mode-p-color-key.png": encode(palette, "PNG", transparency=3),
        "mode-p-color-key.gif": encode(palette, "GIF", transparency=3),
        "mode-p-alphas.png": encode(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "mode-rgb.png": encode(photo, "PNG"),
        "mode-rgb-color-key.png": encode(photo, "PNG", transparency=photo.getpixel((5, 5))),
        "mode-rgba.png": encode(rgba, "PNG"),
        "mode-rgba.webp": encode(rgba, "WEBP"),
        "mode-rgba.tiff": encode(rgba, "TIFF"),
        "mode-rgba.bmp": encode(rgba, "BMP"),
        "mode-rgba.ico": encode(rgba, "ICO", sizes=[(16, 16), (48, 32)]),
        "mode-cmyk.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "mode-cmyk.tiff": encode(photo.convert("CMYK"), "TIFF"),
        "mode-ycbcr.tiff": encode(photo.convert("YCbCr"), "TIFF"),
        "mode-lab.tiff": encode(_to_lab(photo), "TIFF"),
        "mode-i.tiff": encode(gray.convert("I"), "TIFF"),
        "mode-f.tiff": encode(gray.convert("F"), "TIFF"),
        "mode-f-out-of-range.tiff": encode(
            Image.fromarray(np.asarray(gray, np.float32) * 4 - 300), "TIFF", compression="tiff_deflate"
        ),
    }


def _depths(photo: Image.Image) -> dict[str, bytes]:
    """More than 8 bits a channel, and fewer."""
    gray = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    color = np.asarray(photo).astype(np.uint16) * 257
    alpha = np.full((HEIGHT, WIDTH, 1), 40_000, np.uint16)
    return {
        "16-bit.png": encode(Image.fromarray(gray), "PNG"),
        "16-bit.tiff": encode(Image.fromarray(gray), "TIFF"),
        "16-bit-big-endian.tiff": encode(
            Image.frombytes("I;16B", (WIDTH, HEIGHT), gray.astype(">u2").tobytes()), "TIFF"
        ),
        "16-bit.pgm": b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + gray.astype(">u2").tobytes(),
        "16-bit.jp2": encode(Image.fromarray(gray), "JPEG2000"),
        "16-bit-rgb.png": _png(color),
        "16-bit-rgba.png": _png(np.concatenate([color, alpha], axis=-1)),
        "16-bit-la.png": _png(np.concatenate([gray[..., None], alpha], axis=-1)),
        "2-bit.png": encode(photo.quantize(4), "PNG", bits=2),
        "4-bit.png": encode(photo.quantize(16), "PNG", bits=4),
    }


def _animations(photo: Image.Image) -> dict[str, bytes]:
    frames = [photo.rotate(angle) for angle in (0, 90, 180)]
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    return {
        "animated.gif": encode(frames[0], "GIF", **more, duration=50),
        "animated.webp": encode(frames[0], "WEBP", **more, duration=50),
        "animated.apng.png": encode(frames[0], "PNG", **more, duration=50),
        # the picture for those who cannot play it is not one of the frames
        "animated-default-image.png": encode(frames[0], "PNG", **more, default_image=True),
        "animated.avif": _without_times(encode(frames[0], "AVIF", **more)),
        "pages.tiff": encode(frames[0], "TIFF", **more),
        "mpo.jpg": encode(frames[0], "MPO", **more),
    }


def _encodings(photo: Image.Image) -> dict[str, bytes]:
    pixels = np.asarray(photo)
    return {
        "progressive.jpg": encode(photo, "JPEG", progressive=True),
        "rgb-not-ycbcr.jpg": encode(photo, "JPEG", keep_rgb=True),
        "subsampled-4-4-4.jpg": encode(photo, "JPEG", subsampling=0),
        "subsampled-4-1-1.jpg": encode(photo, "JPEG", subsampling=2),
        "restart-markers.jpg": encode(photo, "JPEG", restart_marker_blocks=3),
        "rubbish-at-the-end.jpg": encode(photo, "JPEG") + b"rubbish" * 100,
        "interlaced.png": _png(pixels, interlaced=True),
        "interlaced-16-bit.png": _png(pixels.astype(np.uint16) * 257, interlaced=True),
        "interlaced.gif": encode(photo.quantize(32), "GIF", interlace=1),
        "not-interlaced.gif": encode(photo.quantize(32), "GIF", interlace=0),
        "lossless.webp": encode(photo, "WEBP", lossless=True),
        "lossy.avif": encode(photo, "AVIF", quality=40),
        "lossy.jp2": encode(photo, "JPEG2000", quality_mode="dB", quality_layers=[35]),
        "lzw.tiff": encode(photo, "TIFF", compression="tiff_lzw"),
        "jpeg.tiff": encode(photo, "TIFF", compression="jpeg"),
        "binary.ppm": encode(photo, "PPM"),
        "ascii.ppm": b"P3 2 1 255 9 8 7 250 100 3\n",
    }


def _shapes(photo: Image.Image) -> dict[str, bytes]:
    sizes = [(1, 1), (1, 2), (3, 2), (1, 5000), (5000, 1), (2, 999), (1000, 3)]
    return {f"{width}x{height}.png": encode(photo.resize((width, height)), "PNG") for width, height in sizes}


def _liars(photo: Image.Image) -> dict[str, bytes]:
    """Names that lie about the type."""
    return {
        "a-png-in-truth.jpg": encode(photo, "PNG"),
        "a-jpeg-in-truth.png": encode(photo, "JPEG"),
        "a-webp-in-truth.jpeg": encode(photo, "WEBP"),
        "a-gif-in-truth.tiff": encode(photo.quantize(32), "GIF"),
        "a-tiff-in-truth.gif": encode(photo, "TIFF"),
        "a-bmp-in-truth.heic": encode(photo, "BMP"),
        "a-jpeg-in-truth.txt": encode(photo, "JPEG"),
        "a-jpeg-without-suffix": encode(photo, "JPEG"),
    }


def _profiles(photo: Image.Image) -> dict[str, bytes]:
    """The reference does not convert colors, whatever the profile says."""
    profiles = {
        "srgb": _profile("sRGB"),
        "lab": _profile("LAB"),
        "garbage": b"no profile" * 10,
    }
    files = {}
    for name, profile in profiles.items():
        files[f"icc-{name}.jpg"] = encode(photo, "JPEG", icc_profile=profile)
        files[f"icc-{name}.png"] = encode(photo, "PNG", icc_profile=profile)
    files["icc-cmyk.jpg"] = encode(photo.convert("CMYK"), "JPEG", icc_profile=profiles["garbage"])
    return files


def _no_images() -> dict[str, Refused]:
    unknown = "no image of a known format"
    return {
        "empty": Refused(b"", r"empty \(0 bytes\)", "empty"),
        "text": Refused(b"this is a text file\n", unknown),
        "html": Refused(b"<!doctype html><html><body>404</body></html>", unknown),
        "svg": Refused(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', unknown),
        "pdf": Refused(b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n", unknown),
        "zip": Refused(b"PK\3\4" + bytes(60), unknown),
        "heic": Refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60), unknown),
        "zeros": Refused(bytes(1000), unknown),
        "noise": Refused(np.random.default_rng(0).bytes(1000), unknown),
        "jpeg-start-and-noise": Refused(b"\xff\xd8\xff" + np.random.default_rng(0).bytes(500), "damaged", "corrupt"),
    }


def _truncated() -> dict[str, Refused]:
    photo = _photo()
    files = {}
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM"):
        data = encode(photo, format)
        files[f"half-a-{format.lower()}"] = Refused(
            data[: len(data) // 2], "cannot be decoded|cut short", "truncated|corrupt|format"
        )
        files[f"10-bytes-of-a-{format.lower()}"] = Refused(
            data[:10], "cannot be decoded|cut short", "truncated|corrupt|format"
        )
    progressive = encode(photo, "JPEG", progressive=True)
    files["half-a-progressive-jpeg"] = Refused(progressive[: len(progressive) // 2], "truncated", "truncated")
    gif = encode(photo.quantize(32), "GIF")
    files["half-a-gif"] = Refused(gif[: len(gif) // 2], "cannot be decoded", "truncated")
    png = bytearray(encode(photo, "PNG"))
    png[60] ^= 0xFF
    files["png-with-a-flipped-byte"] = Refused(bytes(png), "cannot be decoded", "corrupt")
    return files


def _bombs() -> dict[str, Refused]:
    """Small files of huge pictures, or that say so, and what decompresses to a great deal else."""
    tiny = Image.new("RGB", (8, 8), (9, 8, 7))
    zeros = zlib.compress(bytes(1 << 26), 9)
    gif, jpeg, bmp = (bytearray(encode(tiny, format)) for format in ("GIF", "JPEG", "BMP"))
    frame = bytearray(gif)
    struct.pack_into("<HH", gif, 6, 65_535, 65_535)
    struct.pack_into("<HH", frame, frame.index(b",", 13) + 5, 65_535, 65_535)
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 65_500, 65_500)
    struct.pack_into("<ii", bmp, 18, 100_000, 100_000)
    png = encode(tiny, "PNG")
    real = encode(Image.new("1", (13_500, 13_500)), "PNG")
    jp2 = bytearray(encode(tiny, "JPEG2000"))
    struct.pack_into(">II", jp2, jp2.index(b"ihdr") + 4, 60_000, 60_000)
    over, text = "limit of 178956970", "Decompressed data too large"
    return {
        "bomb.png": Refused(real, over, "too_large"),
        "bomb.ico": Refused(_icon(real), over, "too_large"),
        "bomb-header.png": Refused(_png_header(60_000, 60_000, 1, 2) + png[33:], over, "too_large"),
        "bomb-header.gif": Refused(bytes(gif), over, "too_large"),
        "bomb-frame.gif": Refused(bytes(frame), over, "too_large"),
        "bomb-header.jpg": Refused(bytes(jpeg), over, "too_large"),
        "bomb-header.bmp": Refused(bytes(bmp), over, "too_large"),
        "bomb-header.jp2": Refused(bytes(jp2), over, "too_large"),
        "bomb-header.ppm": Refused(b"P6 100000 100000 255\n" + bytes(100), over, "too_large"),
        "bomb-header.tiff": Refused(
            _tiff_of_size(encode(tiny, "TIFF", compression="tiff_deflate"), 100_000), over, "too_large"
        ),
        "bomb-text.png": Refused(png[:33] + _chunk(b"zTXt", b"k\0\0" + zeros) + png[33:], text, "too_large"),
        "bomb-profile.png": Refused(png[:33] + _chunk(b"iCCP", b"k\0\0" + zeros) + png[33:], text, "too_large"),
    }


def _without_pixels() -> dict[str, Refused]:
    png = encode(_photo(), "PNG")
    return {
        "0-wide.png": Refused(_png_header(0, HEIGHT, 1, 2) + png[33:], "damaged", "corrupt"),
        "0-high.png": Refused(_png_header(WIDTH, 0, 1, 2) + png[33:], "damaged", "corrupt"),
        "0x0.ppm": Refused(b"P6 0 0 255\n", "damaged", "corrupt"),
        "no-data.png": Refused(png[:33] + png[-12:], ".", "corrupt"),
    }


def _other_formats() -> dict[str, Refused]:
    """What Pillow, and so the reference, reads beyond the formats that are accepted."""
    photo = _photo()
    unknown = "no image of a known format"
    files = {
        f"{format.lower()}-file": Refused(encode(photo, format), unknown, reference="takes")
        for format in ("TGA", "PCX", "SGI", "DDS", "QOI")
    }
    files["xbm-file"] = Refused(encode(photo.convert("1"), "XBM"), unknown, reference="takes")
    files["eps-file"] = Refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", unknown)
    return files


def _profile(name: Literal["LAB", "sRGB"]) -> bytes:
    """An ICC profile that does not say when it was made."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)


def _without_times(sequence: bytes) -> bytes:
    """The same animation with its times of creation and change set to 0. Source: ISO/IEC 14496-12, 8.2.2 to 8.4.2."""
    file = bytearray(sequence)
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        start = file.index(box) + 4
        file[start + 4 : start + (20 if file[start] else 12)] = bytes(16 if file[start] else 8)
    return bytes(file)


def _to_lab(photo: Image.Image) -> Image.Image:
    profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    converted = ImageCms.profileToProfile(photo, *profiles, outputMode="LAB")
    assert converted is not None
    converted.info.clear()  # the profile, which holds the time
    return converted


# Pillow writes neither 16-bit colors nor interlaced PNGs.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _png(pixels: np.ndarray, *, interlaced: bool = False) -> bytes:
    """(H, W, C) uint8 or uint16 → a PNG file. Source: the PNG specification, sections 7 to 9."""
    height, width, channels = pixels.shape
    wide = pixels.astype(f">u{pixels.dtype.itemsize}")
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [wide[top::down, left::right] for left, top, right, down in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = _png_header(width, height, pixels.dtype.itemsize, _PNG_TYPES[channels], interlaced=interlaced)
    return header + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _png_header(width: int, height: int, bytes_a_channel: int, color_type: int, *, interlaced: bool = False) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, 8 * bytes_a_channel, color_type, 0, 0, interlaced)
    return _PNG + _chunk(b"IHDR", fields)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _icon(picture: bytes) -> bytes:
    """An ICO file that says 16 × 16 of the picture in it."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 1, len(picture), 22) + picture


def _tiff_of_size(data: bytes, size: int) -> bytes:
    """The same file, said to be size × size."""
    file = bytearray(data)
    start = struct.unpack_from("<I", file, 4)[0]
    for entry in range(struct.unpack_from("<H", file, start)[0]):
        position = start + 2 + 12 * entry
        (tag,) = struct.unpack_from("<H", file, position)
        if tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH, TiffImagePlugin.ROWSPERSTRIP):
            struct.pack_into("<HII", file, position + 2, 4, 1, size)
    return bytes(file)
