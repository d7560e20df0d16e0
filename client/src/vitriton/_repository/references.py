"""references.json: inputs with the reference's outputs, by which a server checks what it computes before it serves.

The export writes the file beside each ensemble; a server needs neither torch nor transformers to compare with it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FILE = "references.json"
_FORMAT = 1

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An input, and what the reference (transformers in torch float32) makes of it.

    Attributes:
        name: the name of the input, for messages.
        data: the encoded image, or the text in UTF-8.
        values: the reference's output: (dimensions,) or, of the tokens `rows`, (rows, dimensions).
        rows: the tokens of an unpooled output that are compared; None for a pooled output.
        pixels_sha256: the hash of the pixels that the first step must return; None where they may differ.
    """

    name: str
    data: bytes
    values: Floats
    rows: tuple[int, ...] | None = None
    pixels_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class References:
    """The references of an ensemble, and what the export demands of its outputs. At least one demand is set.

    Attributes:
        tolerance: the largest absolute error, in units of max(1, max|reference|).
        min_cosine: the lowest cosine similarity of a vector with the reference's.
        inputs: the references.
    """

    tolerance: float | None
    min_cosine: float | None
    inputs: tuple[Expected, ...]


def write(folder: Path, references: References) -> None:
    """Writes the file into an ensemble's version folder."""
    document = {
        "format": _FORMAT,
        "tolerance": references.tolerance,
        "min_cosine": references.min_cosine,
        "inputs": [
            {
                "name": each.name,
                "data": _encoded(each.data),
                "rows": each.rows,
                "dims": each.values.shape,
                "values": _encoded(each.values.astype("<f4").tobytes()),
                "pixels_sha256": each.pixels_sha256,
            }
            for each in references.inputs
        ],
    }
    (folder / FILE).write_text(json.dumps(document, indent=2) + "\n")


def read(folder: Path) -> References | None:
    """Reads the file in an ensemble's version folder; None if there is none, as in older exports.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file cannot be read, or holds something else.
    """
    try:
        document = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return None
    inputs: Sequence[Mapping[str, Any]] = document["inputs"]
    return References(
        tolerance=document["tolerance"],
        min_cosine=document["min_cosine"],
        inputs=tuple(
            Expected(
                name=each["name"],
                data=base64.b64decode(each["data"]),
                values=np.frombuffer(base64.b64decode(each["values"]), "<f4").reshape(each["dims"]),
                rows=None if each["rows"] is None else tuple(each["rows"]),
                pixels_sha256=each["pixels_sha256"],
            )
            for each in inputs
        ),
    )


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
