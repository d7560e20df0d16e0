"""What the compared things are called, in the report's file and on its pages."""

from __future__ import annotations

from typing import Literal

from vitriton_bench._load.names import callers

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
