"""The input file of perf_analyzer: real photos, since random bytes would measure refusals.

It needs only Python, so it also runs as a program: `python _payload.py FILE FOLDER`.
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
    """Finds the image files in a folder by suffix, sorted by name."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def payload_entry(image: bytes) -> dict[str, dict[str, str]]:
    """The input of one request: a BYTES element, which is its length (4 bytes, little-endian) and its bytes.

    Source: "Input Data" in perf_analyzer's documentation; the length is how Triton's protocol writes BYTES.
    """
    return {INPUT: {"b64": base64.b64encode(struct.pack("<I", len(image)) + image).decode("ascii")}}


def is_image(data: bytes) -> bool:
    """Whether the data has the signature of a JPEG, PNG or WebP."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def write_payload(images: Sequence[Path], target: Path) -> None:
    """Writes the file for `perf_analyzer --input-data`: atomically, with one image in memory at a time.

    Args:
        images: the encoded files; perf_analyzer sends them in this order, again and again.
        target: the file to write; an existing one is replaced.

    Raises:
        ValueError: there are no images, or a file is no image.
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
                        f"{path} is not a JPEG, PNG or WebP, despite its name: it starts with {image[:8]!r}"
                    )
                json.dump(payload_entry(image), file)
            file.write("\n]}\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def main(target: Path, folder: Path) -> None:
    """Writes the images of a folder.

    Raises:
        SystemExit: there are no images, or a file is no image.
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
