"""The limits of the machine, before and after the rounds."""

from __future__ import annotations

from typing import Any

from report.limits import decoding, matrix_products, memory
from report.sides.onnx_runtime import Bare
from report.state import State


def limits(state: State) -> None:
    """Loads the graphs, and measures the limits for the first time."""
    state.clock.say("limits of the machine: matrix products, memory, Pillow")
    state.bares = {
        precision: Bare(state.exports.repository, name, state.images, state.cores, gpu=state.gpu)
        for precision, name in state.exports.names.items()
    }
    state.document["limits"] = _look(state)


def limits_again(state: State) -> None:
    """Measures the limits again; the faster figure counts, since a slow moment shows no limit."""
    if not state.plan.limits_twice:
        return
    state.clock.say("limits of the machine, once more")
    state.document["limits"] = _faster(state.document["limits"], _look(state))


def _look(state: State) -> dict[str, Any]:
    seconds = state.plan.seconds
    return {
        "products": matrix_products(2 * seconds, state.cores, state.gpu),
        "memory_bytes_per_s": memory(seconds / 2, state.gpu),
        "decoding": decoding(state.images, state.bares["fp32"].spec, seconds, state.cores),
    }


def _faster(one: Any, other: Any) -> Any:
    """The higher of two numbers, also within two dicts with the same keys."""
    if isinstance(one, dict):
        return {name: _faster(value, other[name]) for name, value in one.items()}
    return max(one, other)
