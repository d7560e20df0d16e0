"""The input file of perf_analyzer: real photos or texts, since random bytes would measure refusals.

It needs only Python, so it also runs as a program: `python _payload.py FILE INPUT`, where INPUT is a folder of images
or a file of texts.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

IMAGE, TEXT = "image", "text"  # the tensors of the ensembles that `vitriton export` writes
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def find_images(folder: Path) -> list[Path]:
    """Finds the image files in a folder by suffix, sorted by name."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def read_images(paths: Sequence[Path]) -> Iterator[bytes]:
    """Reads encoded images, one at a time.

    Raises:
        ValueError: a file is no image.
        OSError: a file cannot be read.
    """
    for path in paths:
        image = path.read_bytes()
        if not is_image(image):
            raise ValueError(f"{path} is not a JPEG, PNG or WebP, despite its name: it starts with {image[:8]!r}")
        yield image


def read_texts(file: Path) -> list[str]:
    """Reads the texts in a file in UTF-8, one on each line; empty lines are left out.

    Raises:
        ValueError: the file is not UTF-8.
        OSError: the file cannot be read.
    """
    return [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]


def payload_entry(data: bytes, tensor: str) -> dict[str, dict[str, str]]:
    """The input of one request: a BYTES element, which is its length (4 bytes, little-endian) and its bytes.

    Source: "Input Data" in perf_analyzer's documentation; the length is how Triton's protocol writes BYTES.
    """
    return {tensor: {"b64": base64.b64encode(struct.pack("<I", len(data)) + data).decode("ascii")}}


def is_image(data: bytes) -> bool:
    """Whether the data has the signature of a JPEG, PNG or WebP."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def write_payload(inputs: Iterable[bytes], tensor: str, target: Path) -> None:
    """Writes the file for `perf_analyzer --input-data`: atomically, with one input in memory at a time.

    Args:
        inputs: the encoded images, or the texts in UTF-8; perf_analyzer sends them in this order, again and again.
        tensor: the tensor that takes them, `IMAGE` or `TEXT`.
        target: the file to write; an existing one is replaced.

    Raises:
        ValueError: there are no inputs.
        OSError: the file cannot be written.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="ascii") as file:
            number = 0
            for number, data in enumerate(inputs, start=1):
                file.write('{"data": [\n' if number == 1 else ",\n")
                json.dump(payload_entry(data, tensor), file)
            if not number:
                raise ValueError(f"a payload needs at least one {tensor}")
            file.write("\n]}\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def main(target: Path, source: Path) -> None:
    """Writes the images of a folder, or the texts of a file.

    Raises:
        SystemExit: there are none, or one of them cannot be used.
    """
    images = find_images(source)
    if source.is_dir() and not images:
        raise SystemExit(f"{source} has no {', '.join(SUFFIXES)} files")
    try:
        if images:
            write_payload(read_images(images), IMAGE, target)
        else:
            write_payload((text.encode() for text in read_texts(source)), TEXT, target)
    except ValueError as exc:
        raise SystemExit(f"{source}: {exc}") from exc


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
