"""The photos to send: finds, checks and describes them."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from vitriton._console.paths import folder_fault

from vitriton_bench._errors import UnusableOption
from vitriton_bench._payload import SUFFIXES, find_images, is_image


def check(images: Path) -> list[Path]:
    """Finds the files and decodes each, since a broken image would fail in the middle of a run.

    Raises:
        UnusableOption: the folder has no images, or a broken one.
    """
    if (fault := folder_fault(images)) is not None:
        raise UnusableOption("images", fault)
    files = find_images(images)
    if not files:
        raise UnusableOption(
            "images", f"{images} has no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files; name a folder of photos"
        )
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
        except Exception as exc:  # decoders can fail in any way
            reason = "is no image" if isinstance(exc, UnidentifiedImageError) else f"cannot be decoded: {exc}"
            raise UnusableOption("images", f"{file} {reason}; take it out of the folder, or name another") from exc
        if not is_image(file.read_bytes()):
            raise UnusableOption(
                "images", f"{file} is not a JPEG, PNG or WebP, despite its name; take it out of the folder"
            )
    return files


def describe(images: Sequence[bytes]) -> dict[str, Any]:
    """The number and sizes of the images."""
    sizes = [Image.open(io.BytesIO(image)).size for image in images]
    return {
        "count": len(images),
        "mean_bytes": round(statistics.mean(map(len, images))),
        "least_bytes": min(map(len, images)),
        "most_bytes": max(map(len, images)),
        "sizes": sorted({f"{width} × {height}" for width, height in sizes}),
    }
