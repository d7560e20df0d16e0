"""The input file of perf_analyzer: real photos, as random bytes are no images and would measure refusals.

Needs nothing but Python, so it also runs as a program of its own: `python _payload.py FILE FOLDER`.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

INPUT = "image"  # the tensor of every ensemble that `vitriton export` writes
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder, by their suffix, in the order of their names."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def payload_entry(image: bytes) -> dict[str, dict[str, str]]:
    """One request's worth: an element of a BYTES tensor is its length (4 bytes, little-endian) and then its bytes.

    Source: "Input Data" in perf_analyzer's documentation; the length is how Triton's protocol writes BYTES.
    """
    return {INPUT: {"b64": base64.b64encode(struct.pack("<I", len(image)) + image).decode("ascii")}}


def is_image(data: bytes) -> bool:
    """Whether it starts as the suffixes promise."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def write_payload(images: Sequence[Path], target: Path) -> None:
    """Writes what `perf_analyzer --input-data` reads; one image in memory at a time, and all of the file or none.

    Args:
        images: encoded files; perf_analyzer sends them in this order, again and again.
        target: is replaced if it is there.

    Raises:
        ValueError: there are no images, or one of the files is none.
        OSError: a file cannot be read or written.
    """
    if not images:
        raise ValueError("a payload needs at least one image")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="ascii") as file:
            for number, path in enumerate(images):
                file.write('{"data": [\n' if number == 0 else ",\n")
                image = path.read_bytes()
                if not is_image(image):
                    raise ValueError(
                        f"{path} is no JPEG, PNG or WebP, whatever its name says: it starts with {image[:8]!r}"
                    )
                json.dump(payload_entry(image), file)
            file.write("\n]}\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def main(target: Path, folder: Path) -> None:
    """Writes the images of a folder.

    Raises:
        SystemExit: there are none, or one is no image.
    """
    images = find_images(folder)
    if not images:
        raise SystemExit(f"{folder} has no {', '.join(SUFFIXES)} files")
    try:
        write_payload(images, target)
    except ValueError as exc:
        raise SystemExit(str(exc)) from exc


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
