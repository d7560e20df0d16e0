"""The document of a run, with all measurements: the only source of tables, pages and pictures."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vitriton_bench._errors import BenchError

FORMAT = 1


class Record:
    """The document of a run, which is written as it grows.

    An existing file is kept until something has been measured.

    Args:
        document: the document at the start.
        target: the file to write; None for none.
        counts: the entries that count as measurements.
    """

    def __init__(self, document: dict[str, Any], target: Path | None, counts: Sequence[str]) -> None:
        self.document = document
        self._target = target
        self._counts = counts

    @property
    def has_measured(self) -> bool:
        """Whether any measurement has been made."""
        return any(self.document.get(entry) for entry in self._counts)

    def save(self) -> dict[str, Any]:
        """Writes the file, if anything was measured; returns the document."""
        known: dict[str, Any] = significant(self.document)
        if self._target is not None and self.has_measured:
            write_text(json.dumps(known, indent=1) + "\n", self._target)
        return known

    @contextlib.contextmanager
    def kept(self, say: Callable[[str], None]) -> Iterator[None]:
        """Notes an interruption and ends the block; passes KeyboardInterrupt on if nothing was measured."""
        try:
            yield
        except KeyboardInterrupt as exc:
            if not self.has_measured:
                exc.args = (" before anything was measured",)
                raise
            self.document["interrupted"] = True
            say("interrupted: what was measured so far is kept")


def read(path: Path) -> dict[str, Any]:
    """Reads the document of a run.

    Raises:
        BenchError: the file is no such document.
        OSError: the file cannot be read.
    """
    try:
        document = json.loads(path.read_text())
    except ValueError as exc:
        raise BenchError(f"{path} is not a file that --json wrote: {exc}") from exc
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise BenchError(
            f"{path} is not a file that --json wrote: its format is {found}, and this version reads {FORMAT}"
        )
    return dict(document)


def significant(value: Any) -> Any:
    """Rounds floats, also in lists and dicts, to five digits, which exceeds their precision."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: significant(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [significant(entry) for entry in value]
    return value


def write_text(text: str, target: Path) -> None:
    """Writes a text atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    try:
        draft.write_text(text)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
