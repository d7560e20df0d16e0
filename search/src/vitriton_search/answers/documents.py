"""Rows as JSON takes them; the keys are a stable interface."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vitriton_search.stores.store import Hit


def hit_document(hit: Hit) -> dict[str, Any]:
    """A hit with its score and all columns of its row; dates are in the form of ISO 8601."""
    row = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in hit.row.items()}
    return {"id": hit.id, "score": hit.score, **{name: value for name, value in row.items() if name != "id"}}
