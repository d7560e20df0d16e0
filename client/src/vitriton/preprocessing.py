"""Encoded image → pixels, exactly as the PIL image processors of transformers make them.

The same file runs in three places, so that their answers cannot drift apart: in Triton (the export copies it beside
the preprocess model's `model.py` as `vitriton_preprocessing.py`), in the export's parity gate, and in the client. It
therefore needs nothing but the standard library, numpy and Pillow, and imports nothing of Vitriton.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, dataclass, field, replace
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[Any]  # uint8, or float32 where a step of the specification works on floats

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
    """Resize to `height` × `width`, or the shortest edge to `shortest_edge` with the longest at most `longest_edge`.

    `multiple_of` rounds both sides of the latter up.
    """

    resample: str
    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    multiple_of: int | None = None

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
        if self.multiple_of:
            new_height, new_width = replace(self, multiple_of=None).size(height, width)
            return _round_up(new_height, self.multiple_of), _round_up(new_width, self.multiple_of)
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


def _round_up(side: int, multiple: int) -> int:
    return ceil(side / multiple) * multiple


@dataclass(frozen=True)
class CenterCrop:
    """Cut `height` × `width` out of the middle; an image that is smaller is padded with black.

    Half a pixel goes down, as in transformers; with `half_even` to the even number, as in torchvision.
    """

    height: int
    width: int
    half_even: bool | None = None

    def __post_init__(self) -> None:
        """Checks that something is left."""
        if self.height < 1 or self.width < 1:
            raise ValueError(f"centre crop to {self.height} x {self.width} leaves nothing")


@dataclass(frozen=True)
class ConvertRGB:
    """Lay a picture with a transparent colour onto white; decoding alone keeps that colour's red, green and blue."""


@dataclass(frozen=True)
class AlignLongAxis:
    """Turn by 90 degrees, clockwise, where the longer side of the image is not the longer one of `height` × `width`."""

    height: int
    width: int


@dataclass(frozen=True)
class Thumbnail:
    """Shrink, with its proportions, to fit `height` × `width`; what fits stays as it is."""

    resample: str
    height: int
    width: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of `height` × `width` is shrunk to.

        Source: transformers.models.donut.image_processing_pil_donut, thumbnail.
        """
        new_height, new_width = min(height, self.height), min(width, self.width)
        if (new_height, new_width) == (height, width):
            return height, width
        if height > width:
            new_width = int(width * new_height / height)
        elif width > height:
            new_height = int(height * new_width / width)
        return new_height, new_width


@dataclass(frozen=True)
class Pad:
    """Add zeros to `height` × `width`: around the image, or after its last row and column."""

    height: int
    width: int
    center: bool = False


@dataclass(frozen=True)
class FlipChannels:
    """RGB becomes BGR."""


@dataclass(frozen=True)
class Rescale:
    """Multiply by `factor`. The image is float32 from here on, and so are the pixels."""

    factor: float


@dataclass(frozen=True)
class Normalize:
    """Subtract `mean` and divide by `std`, per channel, in float32; comes after `Rescale`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Patches:
    """Resize to whole patches, at most `max_patches` and nearly in proportion, and lay them out one a row.

    What comes out is (max_patches + 1, patch_size², 3): a row for each patch, from the top left, line by line; rows of
    zeros; and a last row that tells how many lines and columns of patches there are, in its first four bytes (two
    little-endian 16-bit numbers).

    Source: transformers.models.siglip2.image_processing_pil_siglip2.
    """

    resample: str
    patch_size: int
    max_patches: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of `height` × `width` is resized to, by transformers' own bisection."""
        epsilon = 1e-5
        low, high = epsilon / 10, 100.0
        while high - low >= epsilon:
            scale = (low + high) / 2
            rows, columns = self._count(scale, height), self._count(scale, width)
            low, high = (scale, high) if rows * columns <= self.max_patches else (low, scale)
        return self._count(low, height) * self.patch_size, self._count(low, width) * self.patch_size

    def _count(self, scale: float, side: int) -> int:
        return max(1, ceil(side * scale / self.patch_size))


Step = ConvertRGB | Resize | CenterCrop | AlignLongAxis | Thumbnail | Pad | FlipChannels | Rescale | Normalize | Patches
_STEPS: dict[str, type[Step]] = {
    "convert_rgb": ConvertRGB,
    "resize": Resize,
    "center_crop": CenterCrop,
    "align_long_axis": AlignLongAxis,
    "thumbnail": Thumbnail,
    "pad": Pad,
    "flip_channels": FlipChannels,
    "rescale": Rescale,
    "normalize": Normalize,
    "patches": Patches,
}


@dataclass(frozen=True)
class Limits:
    """What is refused before it costs memory: pixels (of the file, and of any step between) and file formats."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    formats: tuple[str, ...] = DEFAULT_FORMATS


@dataclass(frozen=True)
class PreprocessSpec:
    """What a model's image processor does to a picture up to the pixels; the rest is in the encoder's graph.

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

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels: uint8, unless a step works on floats."""
        return np.dtype(np.float32 if any(isinstance(step, Rescale) for step in self.steps) else np.uint8)

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
            steps.append(_STEPS[name](**{key: _frozen(value) for key, value in parameters.items()}))
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
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")  # without copies
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
        (height, width, 3) of `spec.dtype`, contiguous.

    Raises:
        ImageError: a step would make an image over the limit of pixels, or with no pixels.
    """
    value: Image.Image | Pixels = image
    for step in spec.steps:
        value = _run(step, value, spec.limits)
    pixels = np.ascontiguousarray(np.asarray(value))
    if pixels.shape != (spec.height, spec.width, 3):
        raise ImageError(f"preprocessing gave shape {pixels.shape} in place of {(spec.height, spec.width, 3)}")
    return pixels


def preprocess(data: bytes, spec: PreprocessSpec) -> Pixels:
    """Encoded image → (height, width, 3) of `spec.dtype`.

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


def _run(step: Step, value: Image.Image | Pixels, limits: Limits) -> Image.Image | Pixels:
    """One step, on an image, or on (H, W, 3) once a step has made an array of it."""
    if isinstance(step, (Resize, Thumbnail)):
        return _resize(step, value, limits)
    if isinstance(step, Patches):
        return _patches(np.asarray(_resize(step, value, limits)), step)
    if isinstance(value, Image.Image) and isinstance(step, (ConvertRGB, CenterCrop, AlignLongAxis)):
        return _run_on_image(step, value)
    return _run_on_array(step, np.asarray(value))


def _run_on_image(step: ConvertRGB | CenterCrop | AlignLongAxis, image: Image.Image) -> Image.Image:
    if isinstance(step, ConvertRGB):
        return _convert_rgb(image)
    if isinstance(step, CenterCrop):
        return _center_crop(image, step)
    upright, wide = step.height > step.width, step.width > step.height
    if (upright and image.width > image.height) or (wide and image.height > image.width):
        return image.transpose(Image.Transpose.ROTATE_270)
    return image


def _run_on_array(step: Step, array: Pixels) -> Pixels:
    if isinstance(step, Rescale):
        return (np.arange(256) * step.factor).astype(np.float32)[array]
    if isinstance(step, Normalize):
        normalized: Pixels = (array - np.array(step.mean, array.dtype)) / np.array(step.std, array.dtype)
        return normalized
    if isinstance(step, FlipChannels):
        return array[..., ::-1]
    if isinstance(step, Pad):
        return _pad(array, step)
    raise ImageError(f"preprocessing cannot do {step} after a step that makes an array of the image")


def _resize(step: Resize | Thumbnail | Patches, value: Image.Image | Pixels, limits: Limits) -> Image.Image | Pixels:
    old = (value.height, value.width) if isinstance(value, Image.Image) else value.shape[:2]
    height, width = step.size(*old)
    if height * width > limits.max_pixels or height < 1 or width < 1:
        raise ImageError(
            f"{old[1]} x {old[0]} pixels would be resized to {width} x {height}, which is outside "
            f"of the limit of {limits.max_pixels} (max_pixels)"
        )
    if isinstance(step, Thumbnail) and (height, width) == old:
        return value
    if isinstance(value, Image.Image):
        return value.resize((width, height), resample=RESAMPLE[step.resample])
    # Pillow's filters on floats, which torch's antialiased interpolation was written after: they differ by rounding
    channels = [Image.fromarray(np.ascontiguousarray(value[..., channel])) for channel in range(value.shape[2])]
    resized = [channel.resize((width, height), resample=RESAMPLE[step.resample]) for channel in channels]
    stacked: Pixels = np.stack([np.asarray(channel) for channel in resized], axis=-1)
    return stacked


def _pad(array: Pixels, step: Pad) -> Pixels:
    height, width = step.height - array.shape[0], step.width - array.shape[1]
    if height < 0 or width < 0:
        raise ImageError(
            f"{array.shape[1]} x {array.shape[0]} pixels are more than the {step.width} x {step.height} to pad to"
        )
    top, left = (height // 2, width // 2) if step.center else (0, 0)
    return np.pad(array, ((top, height - top), (left, width - left), (0, 0)))


def _patches(array: Pixels, step: Patches) -> Pixels:
    size = step.patch_size
    rows, columns = array.shape[0] // size, array.shape[1] // size
    patches = array.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(rows * columns, size * size, 3)
    packed = np.zeros((step.max_patches + 1, size * size, 3), np.uint8)
    packed[: len(patches)] = patches
    packed[-1].reshape(-1)[:4] = np.frombuffer(np.array([rows, columns], "<u2").tobytes(), np.uint8)
    return packed


def _frozen(value: Any) -> Any:
    """JSON has lists, and a step that is compared and hashed has tuples."""
    return tuple(value) if isinstance(value, list) else value


def _convert_rgb(image: Image.Image) -> Image.Image:
    """As transformers.image_transforms.convert_to_rgb, for an image that is RGB already: only a colour key is left."""
    if not isinstance(image.info.get("transparency"), tuple):  # a number is left over from a mode without colours
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _center_crop(image: Image.Image, crop: CenterCrop) -> Image.Image:
    """As transformers.image_transforms.center_crop, which pads by another rounding than it crops."""
    pad_height, pad_width = max(crop.height, image.height), max(crop.width, image.width)
    middle = round if crop.half_even else floor
    top, left = middle((image.height - crop.height) / 2), middle((image.width - crop.width) / 2)
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
