"""The report's file: everything that was measured, and all that tables, pages and pictures are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FORMAT = 1


def significant(value: Any) -> Any:
    """Floats to five digits, which is more than any of them is good for; also those in lists and dicts."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: significant(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [significant(entry) for entry in value]
    return value


def write(document: dict[str, Any], target: Path) -> None:
    """All of it or none."""
    write_text(json.dumps(document, indent=1) + "\n", target)


def write_text(text: str, target: Path) -> None:
    """All of it or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    try:
        draft.write_text(text)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
