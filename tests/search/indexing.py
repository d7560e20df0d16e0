"""What the tests of `vitriton search index` share: small images, the command, and what a store holds."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support import steps
from typer.testing import CliRunner, Result
from vitriton.cli import app
from vitriton_search.stores import open_store


def png(color: tuple[int, int, int], size: tuple[int, int] = (8, 6)) -> bytes:
    """A small image; the tiny model's vector of it is the color and the width."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def color_of(number: int) -> tuple[int, int, int]:
    """The color of an image, which no other number has."""
    return 1 + number % 250, 1 + number // 250 % 250, 7


def write_images(folder: Path, number: int, bad_every: int = 100) -> None:
    """Writes images in several folders, of which some are bad; none has the content of another."""
    for each in range(number):
        path = folder / f"{each % 7}" / f"{each:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        bad = each % bad_every == bad_every // 2
        path.write_bytes(f"nonsense {each}".encode() if bad else png(color_of(each)))


def arguments(address: str, *given: object) -> list[str]:
    return ["search", "index", "--url", address, *map(str, given)]


def index(address: str, *given: object) -> Result:
    """Runs the command in this process."""
    return CliRunner().invoke(app, arguments(address, *given))


def summary(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """What `--json` has printed."""
    assert result.exit_code == exit_code, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def start(address: str, *given: object, batch: int = 20) -> subprocess.Popen[str]:
    """Starts the command in a process of its own, which waits behind each batch."""
    return steps.start(steps.INDEX, [str(batch), *arguments(address, *given)])


def rows(store: object, *but: str) -> dict[str, dict[str, Any]]:
    """All that a store holds, by id, but for some columns."""
    with open_store(str(store)) as opened:
        names = [name for name in opened.schema.names if name not in but]
        found = [row for part in opened.scan(names) for row in part.to_pylist()]
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


def vector(store: object, name: object) -> np.ndarray:
    """The vector of one row."""
    return np.array(rows(store)[str(name)]["embedding"], np.float32)
