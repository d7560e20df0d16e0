"""Encoded image → pixels, exactly as the PIL image processors of transformers make them.

The same file runs in three places, so that their answers cannot drift apart: in Triton (the export copies it beside
the preprocess model's `model.py` as `vitriton_preprocessing.py`), in the export's parity gate, and in the client. It
therefore needs nothing but the standard library, numpy and Pillow, and imports nothing of Vitriton.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from math import ceil, floor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

Pixels = npt.NDArray[Any]  # uint8, or float32 where a step of the specification works on floats

FORMAT = 1  # of the JSON file; raised when an older reader would misunderstand a newer file

RESAMPLE = {filter.name.lower(): filter for filter in Image.Resampling}

# Formats that Pillow decodes by itself. Left out: those that start other programs (EPS: Ghostscript), that are no
# pictures (PDF, video), or that have no signature and so match anything (TGA).
DEFAULT_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Where Pillow itself refuses to decode (2 × Image.MAX_IMAGE_PIXELS): what the reference takes, this takes.
DEFAULT_MAX_PIXELS = 178_956_970
DEFAULT_MAX_BYTES = 268_435_456  # as the client's max_image_bytes: an array of 89 million pixels, sent without loss
# 12 bytes a pixel at DEFAULT_MAX_PIXELS, which is what most formats need (`_DECODE_BYTES`).
DEFAULT_MAX_DECODE_BYTES = 2_147_483_648

# How a refusal names its limit, so that whoever reads it knows what to change.
_OPTIONS = {
    "max_bytes": "--max-image-bytes",
    "max_pixels": "--max-image-pixels",
    "max_frames": "--max-image-frames",
    "formats": "--image-formats",
    "max_decode_bytes": "--max-decode-bytes",
}

# The most memory that decoding takes, in bytes a pixel, up to an upright RGB image (of 4 bytes a pixel): a copy that is
# turned or converted, the coefficients of a progressive JPEG (8, in CMYK), the canvases of an animated WebP, the planes
# of AVIF and JPEG 2000. Measured with Pillow 13, and rounded up: 12.0, 16.2, 13.7 (8 bits a channel) and 24.6.
_DECODE_BYTES = {"WEBP": 20, "AVIF": 32, "JPEG2000": 32}
_OTHER_DECODE_BYTES = 12
_SIDE_BYTES = 64  # a pixel of width and height: pointers to the rows, coefficients of resizing
_KEYED_BYTES = 20  # a pixel, to lay a transparent colour onto white
_FLOAT_BYTES = 32  # a pixel, where floats are made of the whole image


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


@dataclass(frozen=True)
class ScaledDecoding:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size: the smallest with `reducing_gap` × the sides that it is resized to.

    The first step, and a resize follows, with nothing between that moves a pixel of a JPEG. It changes the pixels of
    large JPEGs a little, and of nothing else. `reducing_gap` is Pillow's: the larger, the nearer to an exact resize.

    Source: PIL.Image.Image.thumbnail; "scaled decoding" of libjpeg.
    """

    # A 12-megapixel photo for 224 × 224 is decoded at 1/8; with 2 it would be 1/4, which is much slower.
    reducing_gap: float = 1.5

    def __post_init__(self) -> None:
        """Checks that it does not decode fewer pixels than are wanted."""
        if not 1 <= self.reducing_gap <= 64:
            raise ValueError(f"reducing_gap is {self.reducing_gap}; it must be from 1 to 64")


Step = (
    ScaledDecoding
    | ConvertRGB
    | Resize
    | CenterCrop
    | AlignLongAxis
    | Thumbnail
    | Pad
    | FlipChannels
    | Rescale
    | Normalize
    | Patches
)
_ON_ARRAYS = (Rescale, Normalize, FlipChannels, Pad)  # not on images
_STEPS: dict[str, type[Step]] = {
    "scaled_decoding": ScaledDecoding,
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
    """What is refused before it costs anything, as far as the header tells. None of it moves a pixel.

    Attributes:
        max_pixels: of the image, and of any step between.
        formats: those that are tried, by Pillow's names.
        max_bytes: of the encoded image.
        max_frames: of an animation, or pages of a TIFF, of which the first is used; None: any number, not counted.
        max_decode_bytes: memory that an image may need while pixels are made of it, and all that share a `Memory`
            together; estimated from the header.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    formats: tuple[str, ...] = DEFAULT_FORMATS
    max_bytes: int = DEFAULT_MAX_BYTES
    max_frames: int | None = None
    max_decode_bytes: int = DEFAULT_MAX_DECODE_BYTES

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Limits:
        """Reads what `asdict` gives; a limit that an older file does not have is the default."""
        known = {name: values[name] for name in _OPTIONS if name in values}
        return cls(**{name: _frozen(value) for name, value in known.items()})

    def named(self, name: str) -> str:
        """A limit's value and names, for a refusal."""
        return f"the limit of {getattr(self, name)} ({name}: {_OPTIONS[name]} of vitriton export)"


class Memory:
    """Memory that is shared by images which are decoded at the same time: who needs more than is left waits.

    In the order of their coming, so that a large image is not overtaken for ever by small ones.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    def take(self, needed: int | None) -> int:
        """Waits until `needed` bytes are left; all of them where it is None, or more than there are.

        Returns:
            What is held from now on, and is to be given back.
        """
        taken = self._total if needed is None else min(needed, self._total)
        with self._lock:
            if not self._waiting and taken <= self._left:
                self._left -= taken
                return taken
            ready = threading.Event()
            self._waiting.append((taken, ready))
        ready.wait()
        return taken

    def give_back(self, taken: int) -> None:
        """Lets those go on for which there is enough now."""
        with self._lock:
            self._left += taken
            while self._waiting and self._waiting[0][0] <= self._left:
                next_taken, ready = self._waiting.popleft()
                self._left -= next_taken
                ready.set()


@dataclass(frozen=True)
class PreprocessSpec:
    """What a model's image processor does to a picture up to the pixels; the rest is in the encoder's graph.

    Attributes:
        steps: done in this order.
        height: of the pixels that come out.
        width: of the pixels that come out.
        limits: what is refused.

    Raises:
        ValueError: scaled decoding is not the first step, or no resize follows it.
    """

    steps: tuple[Step, ...]
    height: int
    width: int
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Checks that scaled decoding knows what the image will be resized to."""
        if self.scales_jpegs and _resize_after_decoding(self.steps) is None:
            raise ValueError("scaled_decoding is to be the first step, and a resize the next")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels: uint8, unless a step works on floats."""
        return np.dtype(np.float32 if any(isinstance(step, Rescale) for step in self.steps) else np.uint8)

    @property
    def scales_jpegs(self) -> bool:
        """Whether large JPEGs are decoded at a part of their size."""
        return any(isinstance(step, ScaledDecoding) for step in self.steps)

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
            "limits": asdict(self.limits),
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
        return cls(
            steps=tuple(steps),
            height=document["height"],
            width=document["width"],
            limits=Limits.from_dict(document.get("limits", {})),
        )


def decode(data: bytes, limits: Limits) -> Image.Image:
    """Decodes an encoded image as the reference does: first frame, EXIF orientation applied, RGB.

    Source: transformers.image_utils.load_image.

    Raises:
        ImageError: it is not an image that can be used; the text says why.
    """
    return _opened(data, PreprocessSpec((), 0, 0, limits), None, _load)


def to_pixels(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    """Runs the steps of `spec` on a decoded RGB image.

    Returns:
        (height, width, 3) of `spec.dtype`, contiguous.

    Raises:
        ImageError: a step would make an image over the limit of pixels, or with no pixels.
    """
    return _finish(image, spec.steps, spec)


def _finish(value: Image.Image | Pixels, steps: tuple[Step, ...], spec: PreprocessSpec) -> Pixels:
    """Runs `steps`, the last ones of `spec`."""
    for step in steps:
        value = _run(step, value, spec.limits)
    pixels = np.ascontiguousarray(np.asarray(value))
    if pixels.shape != (spec.height, spec.width, 3):
        raise ImageError(f"preprocessing gave shape {pixels.shape} in place of {(spec.height, spec.width, 3)}")
    return pixels


def preprocess(data: bytes, spec: PreprocessSpec, memory: Memory | None = None) -> Pixels:
    """Encoded image → (height, width, 3) of `spec.dtype`.

    Args:
        data: the file.
        spec: what is done to it.
        memory: shared with the images that are made into pixels at the same time; None: there are none.

    Raises:
        ImageError: it is not an image that can be used; the text says why.
    """

    def pixels(image: Image.Image) -> Pixels:
        draft = _draft(image, spec)
        return to_pixels(_load(image), spec) if draft is None else _finish(*_load_draft(image, draft, spec), spec)

    with contextlib.suppress(MemoryError):
        return _opened(data, spec, memory, pixels)
    # It may have been another image that took more than its header told. So once more, with nobody beside.
    taken = 0 if memory is None else memory.take(None)
    try:
        return _opened(data, spec, None, pixels)
    except MemoryError as exc:
        raise ImageError(
            f"there is not enough memory to decode it within {spec.limits.named('max_decode_bytes')}"
        ) from exc
    finally:
        if memory is not None:
            memory.give_back(taken)


def is_scaled(data: bytes, spec: PreprocessSpec) -> bool:
    """Whether `preprocess` decodes the image at a part of its size, so that its pixels are not the reference's.

    Raises:
        ImageError: it is not an image that can be used; the text says why.
    """
    return _opened(data, spec, None, lambda image: _draft(image, spec) is not None)


_Used = TypeVar("_Used")


def _opened(data: bytes, spec: PreprocessSpec, memory: Memory | None, use: Callable[[Image.Image], _Used]) -> _Used:
    """What `use` makes of an image whose header is within all limits, and for which memory is reserved.

    What Pillow raises becomes an ImageError.
    """
    limits = spec.limits
    if not data:
        raise ImageError("empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(f"{len(data)} bytes are over {limits.named('max_bytes')}")
    Image.init()
    formats = [name for name in limits.formats if name in Image.OPEN]
    taken = 0
    try:
        told = _told_before_opening(data)
        if told is not None:
            taken = _reserve(memory, told, spec)
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_size(image.width, image.height, limits)
            if told is not None and image.width * image.height > told.width * told.height:
                raise ImageError(f"its header tells of two sizes, one of them {image.width} x {image.height}")
            if limits.max_frames is not None:
                _check_frames(image, data, limits)
            if told is None:
                taken = _reserve(memory, _told_by(image, data), spec)
            return use(image)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as exc:  # Pillow's own, which comes first
        pixels = re.search(r"\d+", str(exc))
        raise ImageError(f"{pixels[0] if pixels else 'its'} pixels are over {limits.named('max_pixels')}") from exc
    except UnidentifiedImageError as exc:
        raise ImageError(
            f"no image of a known format ({', '.join(formats)}: {_OPTIONS['formats']} of vitriton export), or cut "
            f"short in its header: {len(data)} bytes that start with {data[:8].hex(' ')}"
        ) from exc
    # A file that lies can make a decoder fail in any way (OSError, SyntaxError, struct.error, zlib.error, ...), and
    # every way is this image's fault alone.
    except Exception as exc:
        raise ImageError(f"cannot be decoded: {_one_line(exc)}") from exc
    finally:
        if taken and memory is not None:
            memory.give_back(taken)


_ORIENTATION = 0x0112  # Exif tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _load(image: Image.Image) -> Image.Image:
    """The pixels of an opened image, upright and RGB.

    As PIL.ImageOps.exif_transpose, which also writes all Exif tags anew; that takes many times the memory of the file.
    """
    image.load()
    method = _UPRIGHT.get(_orientation(image))
    if method is not None:
        image = image.transpose(method)
    return image if image.mode == "RGB" else image.convert("RGB")  # without copies


class _Draft(NamedTuple):
    """A JPEG that is about to be decoded at a part of its size.

    Attributes:
        resize: how many steps there are up to the resize.
        size: (width, height) that it is resized to.
        box: the picture in what will be decoded and turned: the last column and row of that may be less than whole.
    """

    resize: int
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def _resize_after_decoding(steps: tuple[Step, ...]) -> int | None:
    """Which step resizes, if the first one is scaled decoding; None: no step does, or something comes between."""
    for number, step in enumerate(steps[1:], start=1):
        if isinstance(step, (Resize, Thumbnail, Patches)):
            return number if isinstance(steps[0], ScaledDecoding) else None
        if not isinstance(step, ConvertRGB):  # which leaves a JPEG alone: it has no transparent colour
            return None
    return None


def _draft(image: Image.Image, spec: PreprocessSpec) -> _Draft | None:
    """Tells an opened JPEG to decode itself at a part of its size, where `spec` has it and the size allows it."""
    first = spec.steps[0] if spec.steps else None
    number = _resize_after_decoding(spec.steps)
    if not isinstance(first, ScaledDecoding) or number is None or not isinstance(image, JpegImageFile):
        return None
    orientation = _orientation(image)
    turned = orientation in _TURNED
    step: Any = spec.steps[number]
    old = (image.height, image.width)
    upright = old[::-1] if turned else old
    height, width = step.size(*upright)
    _check_resize(upright, height, width, spec.limits)
    wanted = (ceil(width * first.reducing_gap), ceil(height * first.reducing_gap))
    drafted = image.draft(None, wanted[::-1] if turned else wanted)
    if drafted is None or (image.height, image.width) == old:
        return None
    return _Draft(number, (width, height), _upright_box(image, drafted[1], orientation))


_TURNED = (5, 6, 7, 8)


def _upright_box(
    image: Image.Image, box: tuple[float, float, float, float], orientation: Any
) -> tuple[float, float, float, float]:
    """Where a box at the top left of a picture is once that is upright."""
    _, _, width, height = box
    left = image.width - width if orientation in (2, 3, 7, 8) else 0.0
    top = image.height - height if orientation in (3, 4, 6, 7) else 0.0
    if orientation in _TURNED:
        left, top, width, height = top, left, height, width
    return left, top, left + width, top + height


def _load_draft(
    image: Image.Image, draft: _Draft, spec: PreprocessSpec
) -> tuple[Image.Image | Pixels, tuple[Step, ...]]:
    """Decodes and resizes; what comes out, and the steps that are left."""
    step: Any = spec.steps[draft.resize]
    resized = _load(image).resize(draft.size, RESAMPLE[step.resample], draft.box)
    value = _patches(np.asarray(resized), step) if isinstance(step, Patches) else resized
    return value, spec.steps[draft.resize + 1 :]


_LONG_EXIF_BYTES = 65_536  # what a segment of a JPEG can hold


def _orientation(image: Image.Image) -> Any:
    """What Exif says, whatever that is.

    Pillow makes objects of all values of a tag, so in Exif that is longer than cameras write it is looked up without.
    """
    exif = image.info.get("exif")
    if exif is not None and len(exif) > _LONG_EXIF_BYTES:
        found = _Tiff(exif.removeprefix(b"Exif\0\0")).number(_ORIENTATION)
        if found is not None:
            return found
        del image.info["exif"]  # XMP may have it
    return image.getexif().get(_ORIENTATION, 1)


class _Header(NamedTuple):
    """What memory depends on.

    Attributes:
        format: Pillow's name.
        width: in pixels.
        height: in pixels.
        bytes: that are needed whatever the pixels are.
        keyed: one of its colours is transparent.
    """

    format: str
    width: int
    height: int
    bytes: int
    keyed: bool = False


def _told_by(image: Image.Image, data: bytes) -> _Header:
    """The header of an opened image."""
    hidden = _jpeg_2000_bytes(data) if image.format == "JPEG2000" else 0
    keyed = isinstance(image.info.get("transparency"), tuple)
    return _Header(image.format or "", image.width, image.height, len(data) + hidden, keyed)


def _reserve(memory: Memory | None, header: _Header, spec: PreprocessSpec) -> int:
    """Waits for the memory that an image may need; returns what is to be given back."""
    limits = spec.limits
    _check_size(header.width, header.height, limits)
    needed = _needed_bytes(header, spec)
    if needed > limits.max_decode_bytes:
        raise ImageError(
            f"{header.width} x {header.height} pixels of {header.format} may need {needed} bytes of memory, over "
            f"{limits.named('max_decode_bytes')}"
        )
    return 0 if memory is None else memory.take(needed)


def _needed_bytes(header: _Header, spec: PreprocessSpec) -> int:
    """The most memory that an image needs at one time, from the encoded file to the pixels."""
    width, height = header.width, header.height
    each = _DECODE_BYTES.get(header.format, _OTHER_DECODE_BYTES)
    if header.keyed:
        each = max(each, _KEYED_BYTES)
    resized = 0
    for step in spec.steps:
        if isinstance(step, (Resize, Thumbnail, Patches)):
            # Exif may turn it, which is not known yet
            resized = max(_resize_bytes(step, width, height, spec), _resize_bytes(step, height, width, spec))
            break
        if isinstance(step, _ON_ARRAYS):
            each = max(each, _FLOAT_BYTES)
    return width * height * each + _SIDE_BYTES * (width + height) + resized + 2 * header.bytes


def _resize_bytes(step: Resize | Thumbnail | Patches, width: int, height: int, spec: PreprocessSpec) -> int:
    """What resizing makes beside the image: the result, and the image between its two passes."""
    new_height, new_width = step.size(height, width)
    if new_height * new_width > spec.limits.max_pixels:
        return 0  # refused when it comes to that
    # Pillow begins with the rows, and with the columns where an image is over 100 times as high as it is wide
    between = new_width * height if height <= 100 * width or new_height >= height else width * new_height
    each = _FLOAT_BYTES if any(isinstance(other, _ON_ARRAYS) for other in spec.steps) else 4
    return 4 * between + each * new_width * new_height


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(f"{width} x {height} pixels are over {limits.named('max_pixels')}")


def _check_frames(image: Image.Image, data: bytes, limits: Limits) -> None:
    most = limits.max_frames or 0
    # These two count by reading the whole file, frame by frame.
    counters = {"GIF": _gif_frames, "TIFF": _tiff_pages}
    counter = counters.get(image.format or "")
    frames = counter(data, most + 1) if counter else getattr(image, "n_frames", 1)
    if frames > most:
        raise ImageError(f"it has more frames than {limits.named('max_frames')}")


_MAX_BLOCKS = 1 << 20  # of a GIF that are looked at, about 0.2 s


def _gif_frames(data: bytes, most: int) -> int:
    """Counts frames up to `most`; a file of too many blocks counts as `most`. Source: the GIF89a specification."""
    frames, at, blocks = 0, 13 + _gif_colours(data[10]), 0
    while at < len(data) and data[at] != 0x3B and frames < most:
        kind = data[at]
        if kind == 0x2C:
            frames += 1
            at += 11 + _gif_colours(data[at + 9] if at + 9 < len(data) else 0)
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


def _gif_colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _tiff_pages(data: bytes, most: int) -> int:
    """Counts pages up to `most`; a chain of them that bites its tail ends there."""
    tiff, seen = _Tiff(data), set[int]()
    at = tiff.first
    while at and at not in seen and len(seen) < most:
        seen.add(at)
        at = tiff.next(at)
    return len(seen)


def _told_before_opening(data: bytes) -> _Header | None:
    """The header of those formats that Pillow decodes, or reads at length, as soon as it opens them."""
    if data[:4] == b"\0\0\1\0":
        width, height = _icon_size(data)
        return _Header("ICO", width, height, len(data))
    if data[:4] in _TIFF_STARTS:
        return _Tiff(data).header()
    return None


def _icon_size(data: bytes) -> tuple[int, int]:
    """Of the largest picture in an icon, by the pictures' own headers.

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


_TIFF_STARTS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")  # those that Pillow takes
_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
# Memory that Pillow takes for one value of a tag: it is a Python object, and a strip or tile a tuple of several.
_TIFF_BYTES = {1: 2, 2: 2, 7: 2, 5: 400, 10: 400}
_TIFF_OTHER_BYTES, _TIFF_STRIP_BYTES = 48, 400
_TIFF_WIDTH, _TIFF_LENGTH, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 256, 257, 322, 323
_TIFF_OFFSETS = (273, 324)  # of strips and tiles
_TIFF_DIRECTORIES = (34665, 34853, 40965)  # Exif, GPS, interoperability: Pillow reads them all


class _Tiff:
    """The directories of a TIFF file. Source: TIFF 6.0, section 2."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(b"II") else ">"
        self._big = 43 in data[2:4]
        self._entry = struct.Struct(self._order + ("HHQQ" if self._big else "HHLL"))
        self.first = self._number(8 if self._big else 4)

    def next(self, at: int) -> int:
        """Where the directory after the one at `at` is; 0 where there is none."""
        start, count = self._count(at)
        return self._number(start + count * self._entry.size)

    def number(self, wanted: int) -> int | None:
        """The one number of a tag; 0 where it has several, and None where it is not there."""
        for tag, kind, count, value in self._entries(self.first):
            if tag == wanted:
                return self._value(kind, value) if count == 1 and kind in (3, 4) else 0
        return None

    def header(self) -> _Header:
        """Of the first page, with the memory that its tags need."""
        found: dict[int, int] = {}
        needed, places = 0, [self.first]
        for at in places:
            for tag, kind, count, value in self._entries(at):
                count = min(count, len(self._data) // _TIFF_UNITS.get(kind, 1))
                numbers = _TIFF_STRIP_BYTES if tag in _TIFF_OFFSETS else _TIFF_OTHER_BYTES
                needed += count * _TIFF_BYTES.get(kind, numbers)
                if tag in _TIFF_DIRECTORIES and len(places) <= len(_TIFF_DIRECTORIES):
                    places.append(value)
                if at == self.first:
                    found.setdefault(
                        tag, value >> 8 * (self._width() - 2) if kind == 3 and self._order == ">" else value
                    )
        tile = 8 * found.get(_TIFF_TILE_WIDTH, 0) * found.get(_TIFF_TILE_LENGTH, 0)
        needed += min(tile, 1 << 31)  # where Pillow refuses it
        return _Header("TIFF", found.get(_TIFF_WIDTH, 0), found.get(_TIFF_LENGTH, 0), len(self._data) + needed // 2)

    def _value(self, kind: int, field: int) -> int:
        """A field's first number; a short one stands at the field's beginning."""
        if kind not in (3, 8):
            return field
        return field & 0xFFFF if self._order == "<" else field >> 8 * (self._width() - 2)

    def _entries(self, at: int) -> Iterator[tuple[int, int, int, int]]:
        start, count = self._count(at)
        table = self._data[start : start + count * self._entry.size]
        return self._entry.iter_unpack(table[: len(table) // self._entry.size * self._entry.size])

    def _count(self, at: int) -> tuple[int, int]:
        """Where the entries of a directory begin, and how many there are."""
        size = 8 if self._big else 2
        return at + size, self._number(at, size)

    def _width(self) -> int:
        return 8 if self._big else 4

    def _number(self, at: int, size: int | None = None) -> int:
        place = self._data[at : at + (size or self._width())]
        return int.from_bytes(place, "little" if self._order == "<" else "big")


def _jpeg_2000_bytes(data: bytes) -> int:
    """What OpenJPEG makes for each tile and channel; the box outside may tell less of them than the picture does.

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


def _run(step: Step, value: Image.Image | Pixels, limits: Limits) -> Image.Image | Pixels:
    """One step, on an image, or on (H, W, 3) once a step has made an array of it."""
    if isinstance(step, (Resize, Thumbnail)):
        return _resize(step, value, limits)
    if isinstance(step, Patches):
        return _patches(np.asarray(_resize(step, value, limits)), step)
    if isinstance(step, ScaledDecoding):  # of a JPEG that is not decoded yet
        return value
    if isinstance(value, Image.Image) and isinstance(step, (ConvertRGB, CenterCrop, AlignLongAxis)):
        return _run_on_image(step, value, limits)
    return _run_on_array(step, np.asarray(value))


def _run_on_image(step: ConvertRGB | CenterCrop | AlignLongAxis, image: Image.Image, limits: Limits) -> Image.Image:
    if isinstance(step, ConvertRGB):
        return _convert_rgb(image)
    if isinstance(step, CenterCrop):
        return _center_crop(image, step, limits)
    upright, wide = step.height > step.width, step.width > step.height
    if (upright and image.width > image.height) or (wide and image.height > image.width):
        return image.transpose(Image.Transpose.ROTATE_270)
    return image


def _run_on_array(step: Step, array: Pixels) -> Pixels:
    if isinstance(step, Rescale):
        return _rescale(array, step.factor)
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
    _check_resize(old, height, width, limits)
    if isinstance(step, Thumbnail) and (height, width) == old:
        return value
    if isinstance(value, Image.Image):
        return value.resize((width, height), resample=RESAMPLE[step.resample])
    # Pillow's filters on floats, which torch's antialiased interpolation was written after: they differ by rounding
    resized = []
    for channel in range(value.shape[2]):  # one after the other, for each is as large as an image
        plane = Image.fromarray(np.ascontiguousarray(value[..., channel]))
        resized.append(np.asarray(plane.resize((width, height), resample=RESAMPLE[step.resample])))
    stacked: Pixels = np.stack(resized, axis=-1)
    return stacked


def _check_resize(old: tuple[int, ...], height: int, width: int, limits: Limits) -> None:
    if height * width > limits.max_pixels or height < 1 or width < 1:
        raise ImageError(
            f"{old[1]} x {old[0]} pixels would be resized to {width} x {height}, which is outside of "
            f"{limits.named('max_pixels')}"
        )


_BAND_ROWS = 256


def _rescale(array: Pixels, factor: float) -> Pixels:
    """uint8 → float32, some rows at a time: numpy makes 8-byte indices of all that it looks up at once."""
    table = (np.arange(256) * factor).astype(np.float32)
    rescaled = np.empty(array.shape, np.float32)
    for top in range(0, len(array), _BAND_ROWS):
        rescaled[top : top + _BAND_ROWS] = table[array[top : top + _BAND_ROWS]]
    return rescaled


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


def _center_crop(image: Image.Image, crop: CenterCrop, limits: Limits) -> Image.Image:
    """As transformers.image_transforms.center_crop, which pads by another rounding than it crops."""
    pad_height, pad_width = max(crop.height, image.height), max(crop.width, image.width)
    _check_size(pad_width, pad_height, limits)
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
