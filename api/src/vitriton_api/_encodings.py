"""The forms in which a vector can be asked for, and their arithmetic.

| encoding | of a vector x of D float32 |
|---|---|
| float | the D numbers, each in the shortest decimal form that reads back to the same float32 |
| base64 | the base64 of the D numbers as little-endian float32 |
| int8 | round(127 · x / max|x|), half to even: D integers from -127 to 127; a vector of zeros stays one |
| uint8 | int8 + 128: D integers from 1 to 255 |
| ubinary | 8 numbers a byte: the bit of a number is 1 where it is above 0, the first number is the highest bit, and bits are 0 where D ends: ceil(D / 8) integers from 0 to 255 |
| binary | ubinary - 128: ceil(D / 8) integers from -128 to 127 |

The last two are those of `sentence_transformers.quantize_embeddings`. Its int8 needs the range of each dimension over
a sample of the user's vectors, which a server does not have: here each vector is scaled by its own largest number. So
compare int8 vectors by their cosine, which the scale does not change, and binary ones by their Hamming distance.
"""  # noqa: E501 - a table

from __future__ import annotations

import base64
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vitriton_api._errors import RequestRefused

Encoding = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

Vector = NDArray[np.float32]


def encoded(vector: Vector, encoding: Encoding) -> Any:
    """A vector (D,) float32 in an encoding, as orjson takes it.

    Raises:
        RequestRefused: the vector has NaN or infinity, which only base64 can say.
    """
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    if not np.isfinite(vector).all():
        text = "the model returned NaN or infinity, which JSON has no number for; ask for base64 to see the vector"
        raise RequestRefused(text, status=502, code="not_finite")
    if encoding == "float":
        return np.ascontiguousarray(vector)
    if encoding in ("int8", "uint8"):
        scaled = _scaled(vector)
        return scaled if encoding == "int8" else (scaled.astype(np.int16) + 128).astype(np.uint8)
    packed = np.packbits(vector > 0)
    return packed if encoding == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)


def _scaled(vector: Vector) -> NDArray[np.int8]:
    # In float64, in which the products of float32 numbers are exact
    wide = vector.astype(np.float64)
    largest = np.abs(wide).max(initial=0.0)
    return np.rint(127 * wide / largest if largest else wide).astype(np.int8)
