"""What the compared things are called, in the report's file and on its pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

MANY = 32  # callers of a loaded server

Way = Literal["ready pixels", "from JPEG"]


def pipeline(dtype: str) -> str:
    """transformers, at its best batch size."""
    return f"pipeline {dtype}"


def litserve(dtype: str, number: int) -> str:
    """The peer."""
    return f"LitServe {dtype}, {callers(number)}"


def ours(precision: str, number: int, kind: str = "pooled") -> str:
    """A Triton with an export."""
    return f"Vitriton {precision}{'' if kind == 'pooled' else ' ' + kind}, {callers(number)}"


def bare(precision: str, way: Way) -> str:
    """ONNX Runtime in one process, at its best batch size."""
    return f"ONNX Runtime {precision}, {way}"


def one_by_one(precision: str) -> str:
    """Decoding and inference of one image after the other, in one process."""
    return f"ONNX Runtime {precision}, from JPEG, one by one"


def callers(number: int) -> str:
    """So many of them."""
    return "1 caller" if number == 1 else f"{number} callers"


def load(way: Mapping[str, Any]) -> str:
    """A way to load a server, by the attributes of a `Point`."""
    rate = way.get("rate")
    comes = callers(way["concurrency"]) if rate is None else f"{rate:.3g}/s {way['arrivals']}"
    shared = ", shared memory" if way["shared_memory"] == "system" else ""
    return f"{way['kind']}, {way['protocol']}, batch {way['batch']}, {comes}{shared}"
