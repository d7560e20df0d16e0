"""Encoded image → uint8 pixels, exactly as the PIL image processors of transformers make them.

The same file runs in three places, so that their answers cannot drift apart: in Triton (the export copies it beside
the preprocess model's `model.py` as `vitriton_preprocessing.py`), in the export's parity gate, and in the client. It
therefore needs nothing but the standard library, numpy and Pillow, and imports nothing of Vitriton.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

FORMAT = 1  # of the JSON file; raised when an older reader would misunderstand a newer file

RESAMPLE = {filter.name.lower(): filter for filter in Image.Resampling}

# Formats that Pillow decodes by itself. Left out: those that start other programs (EPS: Ghostscript), that are no
# pictures (PDF, video), or that have no signature and so match anything (TGA).
DEFAULT_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Where Pillow itself refuses to decode (2 × Image.MAX_IMAGE_PIXELS): what the reference takes, this takes.
DEFAULT_MAX_PIXELS = 178_956_970


class ImageError(ValueError):
    """An image that cannot be used; the text says why, in one line, without naming the image."""


@dataclass(frozen=True)
class Resize:
    """Resize to `height` × `width`, or the shortest edge to `shortest_edge` with the longest at most `longest_edge`."""

    resample: str
    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None

    def __post_init__(self) -> None:
        """Checks that the step says exactly one thing."""
        if self.resample not in RESAMPLE:
            raise ValueError(f"resample is {self.resample!r}; it must be one of {', '.join(RESAMPLE)}")
        exact = (self.height or 0) > 0 and (self.width or 0) > 0
        edge = (self.shortest_edge or 0) > 0
        if exact == edge:
            raise ValueError(f"resize needs height and width, or shortest_edge, and not both: {self}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of `height` × `width` is resized to, in transformers' own arithmetic.

        Source: transformers.image_transforms, get_resize_output_image_size and get_size_with_aspect_ratio.
        """
        if self.height and self.width:
            return self.height, self.width
        edge = self.shortest_edge or 0
        short, long = min(height, width), max(height, width)
        if self.longest_edge is None:
            new_short, new_long = edge, int(edge * long / short)
        else:
            raw = None
            if long / short * edge > self.longest_edge:
                raw = self.longest_edge * short / long
                edge = round(raw)
            if short == edge:
                return height, width
            new_short, new_long = edge, int((edge if raw is None else raw) * long / short)
        return (new_long, new_short) if width <= height else (new_short, new_long)


@dataclass(frozen=True)
class CenterCrop:
    """Cut `height` × `width` out of the middle; an image that is smaller is padded with black."""

    height: int
    width: int

    def __post_init__(self) -> None:
        """Checks that something is left."""
        if self.height < 1 or self.width < 1:
            raise ValueError(f"centre crop to {self.height} x {self.width} leaves nothing")


@dataclass(frozen=True)
class ConvertRGB:
    """Lay a picture with a transparent colour onto white; decoding alone keeps that colour's red, green and blue."""


Step = ConvertRGB | Resize | CenterCrop
_STEPS = {"convert_rgb": ConvertRGB, "resize": Resize, "center_crop": CenterCrop}


@dataclass(frozen=True)
class Limits:
    """What is refused before it costs memory: pixels (of the file, and of any step between) and file formats."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    formats: tuple[str, ...] = DEFAULT_FORMATS


@dataclass(frozen=True)
class PreprocessSpec:
    """What a model's image processor does to a picture up to the uint8 pixels; the rest is in the encoder's graph.

    Attributes:
        steps: done in this order.
        height: of the pixels that come out.
        width: of the pixels that come out.
        limits: what is refused.
    """

    steps: tuple[Step, ...]
    height: int
    width: int
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> str:
        """The text of the file, the same for equal specs."""
        names = {step: name for name, step in _STEPS.items()}
        steps = [
            {
                "op": names[type(step)],
                **{key: value for key, value in asdict(step).items() if value is not None},
            }
            for step in self.steps
        ]
        document = {
            "format": FORMAT,
            "steps": steps,
            "height": self.height,
            "width": self.width,
            "limits": {"max_pixels": self.limits.max_pixels, "formats": list(self.limits.formats)},
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PreprocessSpec:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the text is of a newer format, or a step is unknown or contradicts itself.
        """
        document: dict[str, Any] = json.loads(text)
        if document.get("format") != FORMAT:
            raise ValueError(f"preprocessing file has format {document.get('format')}; this reads format {FORMAT}")
        steps = []
        for entry in document["steps"]:
            parameters = dict(entry)
            name = parameters.pop("op")
            if name not in _STEPS:
                raise ValueError(f"unknown preprocessing step {name!r}; known are {', '.join(_STEPS)}")
            steps.append(_STEPS[name](**parameters))
        limits = document.get("limits", {})
        return cls(
            steps=tuple(steps),
            height=document["height"],
            width=document["width"],
            limits=Limits(
                max_pixels=limits.get("max_pixels", DEFAULT_MAX_PIXELS),
                formats=tuple(limits.get("formats", DEFAULT_FORMATS)),
            ),
        )


def decode(data: bytes, limits: Limits) -> Image.Image:
    """Decodes an encoded image as the reference does: first frame, EXIF orientation applied, RGB.

    Source: transformers.image_utils.load_image.

    Raises:
        ImageError: it is not an image that can be used; the text says why.
    """
    if not data:
        raise ImageError("empty (0 bytes)")
    Image.init()
    formats = [name for name in limits.formats if name in Image.OPEN]
    _check_icon(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_size(image.width, image.height, limits)
            return ImageOps.exif_transpose(image).convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError as exc:
        raise ImageError(
            f"no image of a known format ({', '.join(formats)}), or cut short in its header: {len(data)} bytes that "
            f"start with {data[:8].hex(' ')}"
        ) from exc
    # A file that lies can make a decoder fail in any way (OSError, SyntaxError, struct.error, zlib.error, ...), and
    # every way is this image's fault alone.
    except Exception as exc:
        raise ImageError(f"cannot be decoded: {_one_line(exc)}") from exc


def to_pixels(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    """Runs the steps of `spec` on a decoded RGB image.

    Returns:
        (height, width, 3) uint8, contiguous.

    Raises:
        ImageError: a step would make an image over the limit of pixels, or with no pixels.
    """
    for step in spec.steps:
        if isinstance(step, Resize):
            height, width = step.size(image.height, image.width)
            if height * width > spec.limits.max_pixels or height < 1 or width < 1:
                raise ImageError(
                    f"{image.width} x {image.height} pixels would be resized to {width} x {height}, which is outside "
                    f"of the limit of {spec.limits.max_pixels} (max_pixels)"
                )
            image = image.resize((width, height), resample=RESAMPLE[step.resample])
        elif isinstance(step, CenterCrop):
            image = _center_crop(image, step)
        else:
            image = _convert_rgb(image)
    pixels = np.asarray(image)
    if pixels.shape != (spec.height, spec.width, 3):
        raise ImageError(f"preprocessing gave shape {pixels.shape} in place of {(spec.height, spec.width, 3)}")
    return pixels


def preprocess(data: bytes, spec: PreprocessSpec) -> Pixels:
    """Encoded image → (height, width, 3) uint8.

    Raises:
        ImageError: it is not an image that can be used; the text says why.
    """
    try:
        return to_pixels(decode(data, spec.limits), spec)
    except MemoryError as exc:
        raise ImageError("there is not enough memory to decode it") from exc


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(f"{width} x {height} pixels are over the limit of {limits.max_pixels} (max_pixels)")


def _check_icon(data: bytes, limits: Limits) -> None:
    """Pillow decodes an icon as soon as it opens it, so the headers of the pictures in it are read before.

    Source: https://en.wikipedia.org/wiki/ICO_(file_format); each picture is a PNG, or a bitmap without its file header.
    """
    if data[:4] != b"\0\0\1\0":
        return
    for entry in range(22, 22 + 16 * int.from_bytes(data[4:6], "little"), 16):
        start = int.from_bytes(data[entry - 4 : entry], "little")
        header = data[start : start + 24]
        if header.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
        else:
            width, height = (int.from_bytes(header[at : at + 4], "little", signed=True) for at in (4, 8))
        _check_size(abs(width), abs(height), limits)


def _convert_rgb(image: Image.Image) -> Image.Image:
    """As transformers.image_transforms.convert_to_rgb, for an image that is RGB already: only a colour key is left."""
    if not isinstance(image.info.get("transparency"), tuple):  # a number is left over from a mode without colours
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _center_crop(image: Image.Image, crop: CenterCrop) -> Image.Image:
    """As transformers.image_transforms.center_crop, which pads by another rounding than it crops."""
    pad_height, pad_width = max(crop.height, image.height), max(crop.width, image.width)
    top, left = (image.height - crop.height) // 2, (image.width - crop.width) // 2
    if (pad_height, pad_width) != (image.height, image.width):
        padded = Image.new("RGB", (pad_width, pad_height))
        top_pad, left_pad = ceil((pad_height - image.height) / 2), ceil((pad_width - image.width) / 2)
        padded.paste(image, (left_pad, top_pad))
        image, top, left = padded, top + top_pad, left + left_pad
    return image.crop((left, top, left + crop.width, top + crop.height))


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return re.sub(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>", "", text) or type(exc).__name__


# How the server names the bad images of a request: one line that a person can read and a program can parse.
# gRPC carries an error's text in a header, of 8 KiB unless the client asks for more; above that it is lost. So the
# reasons give way when there are many, and in the end only the indices are left (5 kB for 1024 images).
_MESSAGE_BYTES = 4096
_MESSAGE = re.compile(r"cannot use \d+ of \d+ images: (\[.*\])", re.DOTALL)


def format_image_errors(errors: dict[int, str], batch_size: int) -> str:
    """The text of the INVALID_ARGUMENT error that names every bad image of a request by its index, and why."""
    start = f"cannot use {len(errors)} of {batch_size} images: "
    for longest in (400, 200, 100, 50, 20):
        text = start + json.dumps([[index, reason[:longest]] for index, reason in sorted(errors.items())])
        if len(text) <= _MESSAGE_BYTES:
            return text
    return start + json.dumps(sorted(errors), separators=(",", ":"))


def parse_image_errors(message: str) -> dict[int, str] | None:
    """What `format_image_errors` wrote, out of whatever Triton has put around it; None if it is not in there."""
    match = _MESSAGE.search(message)
    if match is None:
        return None
    try:
        entries: list[Any] = json.loads(match.group(1))
        pairs = [(entry, "") if isinstance(entry, int) else entry for entry in entries]
        return {int(index): str(reason) for index, reason in pairs}
    except (ValueError, TypeError):
        return None
