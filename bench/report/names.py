"""The names of the compared sides, in the report's file and on its pages."""

from __future__ import annotations

from typing import Literal

from vitriton_bench._load.names import callers

MANY = 32  # the number of callers of a loaded server

SENTENCES = "sentence-transformers fp32"  # at its best batch size

Way = Literal["ready pixels", "from JPEG"]


def pipeline(dtype: str) -> str:
    """transformers, at its best batch size."""
    return f"pipeline {dtype}"


def litserve(dtype: str, number: int) -> str:
    """LitServe, with this number of callers."""
    return f"LitServe {dtype}, {callers(number)}"


def ours(precision: str, number: int, kind: str = "pooled") -> str:
    """A Triton with an export, with this number of callers."""
    return f"Vitriton {precision}{'' if kind == 'pooled' else ' ' + kind}, {callers(number)}"


def infinity(number: int) -> str:
    """infinity-emb, with this number of callers."""
    return f"infinity fp32, {callers(number)}"


def at_peers_rate(precision: str) -> str:
    """A Triton with an export, with requests at the rate that infinity-emb reached."""
    return f"Vitriton {precision}, at infinity's rate"


def bare(precision: str, way: Way) -> str:
    """ONNX Runtime in one process, at its best batch size."""
    return f"ONNX Runtime {precision}, {way}"


def one_by_one(precision: str) -> str:
    """Decoding and inference of images one by one, in one process."""
    return f"ONNX Runtime {precision}, from JPEG, one by one"
