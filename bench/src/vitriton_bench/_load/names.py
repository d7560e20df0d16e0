"""The names of loads, in tables and on pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def load(way: Mapping[str, Any]) -> str:
    """The name of a load, from the attributes of a `Point`."""
    rate = way.get("rate")
    comes = callers(way["concurrency"]) if rate is None else f"{rate:.3g}/s {way['arrivals']}"
    shared = ", shared memory" if way["shared_memory"] == "system" else ""
    return f"{way['kind']}, {way['protocol']}, batch {way['batch']}, {comes}{shared}"


def callers(number: int) -> str:
    """The number of callers, in words."""
    return "1 caller" if number == 1 else f"{number} callers"
