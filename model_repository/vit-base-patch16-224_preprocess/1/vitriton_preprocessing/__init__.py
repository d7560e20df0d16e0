"""Encoded image → pixels, exactly as the PIL image processors of transformers make them.

The same files run in three places, so that their results cannot diverge: in Triton (the export copies the folder beside
the preprocess model's `model.py` as `vitriton_preprocessing`), in the export's parity gate, and in the client.
Therefore they need only the standard library, numpy and Pillow, and import each other by relative names.
"""

from .decoding import decode, is_scaled, preprocess
from .limits import DEFAULT_FORMATS, DEFAULT_MAX_BYTES, DEFAULT_MAX_DECODE_BYTES, DEFAULT_MAX_PIXELS, Limits
from .memory import Memory
from .pixels import Pixels, to_pixels
from .refusals import Code, ImageError, Refusal, format_errors, parse_errors
from .spec import FORMAT, PreprocessSpec
from .steps import (
    RESAMPLE,
    AlignLongAxis,
    CenterCrop,
    ConvertRGB,
    FlipChannels,
    Normalize,
    Pad,
    Patches,
    Rescale,
    Resize,
    ScaledDecoding,
    Step,
    Thumbnail,
)

__all__ = [
    "DEFAULT_FORMATS",
    "DEFAULT_MAX_BYTES",
    "DEFAULT_MAX_DECODE_BYTES",
    "DEFAULT_MAX_PIXELS",
    "FORMAT",
    "RESAMPLE",
    "AlignLongAxis",
    "CenterCrop",
    "Code",
    "ConvertRGB",
    "FlipChannels",
    "ImageError",
    "Limits",
    "Memory",
    "Normalize",
    "Pad",
    "Patches",
    "Pixels",
    "PreprocessSpec",
    "Refusal",
    "Rescale",
    "Resize",
    "ScaledDecoding",
    "Step",
    "Thumbnail",
    "decode",
    "format_errors",
    "is_scaled",
    "parse_errors",
    "preprocess",
    "to_pixels",
]
