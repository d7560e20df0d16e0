"""Decodes JPEGs at a reduced size."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from .limits import check_resize
from .orientation import TURNED, load, read_orientation, upright_box
from .pixels import Pixels, pack_patches
from .spec import PreprocessSpec
from .steps import RESAMPLE, Patches, ScaledDecoding, Step, resize_after_decoding


def start_draft(image: Image.Image, spec: PreprocessSpec) -> _Draft | None:
    """Sets an opened JPEG to be decoded at a reduced size, if `spec` asks for it and the size allows it."""
    first = spec.steps[0] if spec.steps else None
    number = resize_after_decoding(spec.steps)
    if not isinstance(first, ScaledDecoding) or number is None or not isinstance(image, JpegImageFile):
        return None
    orientation = read_orientation(image)
    turned = orientation in TURNED
    step: Any = spec.steps[number]
    old = (image.height, image.width)
    upright = old[::-1] if turned else old
    height, width = step.size(*upright)
    check_resize(upright, height, width, spec.limits)
    wanted = (ceil(width * first.reducing_gap), ceil(height * first.reducing_gap))
    drafted = image.draft(None, wanted[::-1] if turned else wanted)
    if drafted is None or (image.height, image.width) == old:
        return None
    return _Draft(number, (width, height), upright_box(image, drafted[1], orientation))


def load_draft(
    image: Image.Image, draft: _Draft, spec: PreprocessSpec
) -> tuple[Image.Image | Pixels, tuple[Step, ...]]:
    """Decodes and resizes a JPEG; returns the result and the remaining steps."""
    step: Any = spec.steps[draft.resize]
    resized = load(image).resize(draft.size, RESAMPLE[step.resample], draft.box)
    value = pack_patches(np.asarray(resized), step) if isinstance(step, Patches) else resized
    return value, spec.steps[draft.resize + 1 :]


class _Draft(NamedTuple):
    """A JPEG that will be decoded at a reduced size.

    Attributes:
        resize: the number of steps before the resize.
        size: the (width, height) after the resize.
        box: the picture's box in the decoded, upright image, whose last column and row may be partial.
    """

    resize: int
    size: tuple[int, int]
    box: tuple[float, float, float, float]
