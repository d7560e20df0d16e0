"""How a row of a store is shown in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    """A name or a label as a terminal can show it: with backslash escapes if there are control characters in it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def score_cell(score: float) -> str:
    """A cosine with three digits."""
    return f"{score:.3f}"


def size_cell(row: Mapping[str, Any]) -> str:
    """The width and the height in pixels."""
    return "" if row["width"] is None or row["height"] is None else f"{row['width']}x{row['height']}"


def date_cell(row: Mapping[str, Any]) -> str:
    """The day on which a photo was taken, or else its file was changed."""
    date = row["taken"] or row["modified"]
    return "" if date is None else f"{date:%Y-%m-%d}"


def time_cell(seconds: float | None) -> str:
    """A time in a video, like 1:02:03.5."""
    if seconds is None:
        return ""
    tenths = round(seconds * 10)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")
