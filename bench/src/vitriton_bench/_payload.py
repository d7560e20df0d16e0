"""The input file of perf_analyzer: real photos, as random bytes are no images and would measure refusals."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path

INPUT = "image"  # the tensor of every ensemble that `vitriton export` writes
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder, by their suffix, in the order of their names."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def payload_entry(image: bytes) -> dict[str, dict[str, str]]:
    """One request's worth: an element of a BYTES tensor is its length (4 bytes, little-endian) and then its bytes.

    Source: "Input Data" in perf_analyzer's documentation; the length is how Triton's protocol writes BYTES.
    """
    return {INPUT: {"b64": base64.b64encode(struct.pack("<I", len(image)) + image).decode("ascii")}}


def write_payload(images: Sequence[Path], target: Path) -> None:
    """Writes what `perf_analyzer --input-data` reads; one image in memory at a time, and all of the file or none.

    Args:
        images: encoded files; perf_analyzer sends them in this order, again and again.
        target: is replaced if it is there.

    Raises:
        ValueError: there are no images.
        OSError: a file cannot be read or written.
    """
    if not images:
        raise ValueError("a payload needs at least one image")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="ascii") as file:
            for number, path in enumerate(images):
                file.write('{"data": [\n' if number == 0 else ",\n")
                json.dump(payload_entry(path.read_bytes()), file)
            file.write("\n]}\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
