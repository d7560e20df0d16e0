"""The rounds in which all sides take turns, each with its best setting."""

from __future__ import annotations

from collections.abc import Callable

from report import names
from report.rounds.rounds import Measurement
from report.rounds.speed import Sample
from report.state import State


def rounds(state: State) -> None:
    """Measures rounds until the time is over."""
    state.take_turns(_measurements(state), state.plan.rounds, reserve_s=state.plan.after_s)


def _measurements(state: State) -> dict[str, Measurement]:
    """All measurements of a round, by name; the two sides of a ratio are neighbors."""
    found = _peers(state) | _bares(state) | _served(state)
    turns = _turns(state.fast, state.peer_fast, state.document["settings"]["callers"])
    first = {name: found[name] for name in turns if name in found}
    return first | found


def _peers(state: State) -> dict[str, Measurement]:
    seconds, batch = state.plan.seconds, state.document["settings"]["batch"]
    found = {
        names.pipeline(dtype): _bound(own.sample, batch[names.pipeline(dtype)], seconds)
        for dtype, own in state.pipelines.items()
    }
    for dtype, peer in state.peers.items():
        for callers in (names.MANY, 1):
            found[names.litserve(dtype, callers)] = _bound(peer.sample, callers, seconds)
    return found


def _bares(state: State) -> dict[str, Measurement]:
    seconds, batch = state.plan.seconds, state.document["settings"]["batch"]
    found: dict[str, Measurement] = {}
    for precision, own in state.bares.items():
        pixels, files = names.bare(precision, "ready pixels"), names.bare(precision, "from JPEG")
        found[pixels] = _bound(own.ready_pixels, batch[pixels], seconds)
        found[files] = _bound(own.from_bytes, batch[files], seconds)
        found[names.one_by_one(precision)] = _bound(own.from_bytes, 1, seconds)
    return found


def _served(state: State) -> dict[str, Measurement]:
    seconds, best = state.plan.seconds, state.document["settings"]["callers"]
    found: dict[str, Measurement] = {}
    for (precision, kind), own in state.served.items():
        several = {names.MANY, 1, best[precision]} if kind == "pooled" else {names.MANY}
        for callers in sorted(several, reverse=True):
            found[names.ours(precision, callers, kind)] = _bound(own.sample, callers, seconds)
    return found


def _bound(sample: Callable[[int, float], Sample], setting: int, seconds: float) -> Measurement:
    return lambda: sample(setting, seconds)


def _turns(fast: str, peer_fast: str, callers: dict[str, int]) -> list[str]:
    """The order of a round. The sides of a ratio are neighbors, since the machine changes from minute to minute."""
    return [
        names.litserve("fp32", names.MANY),
        names.ours("fp32", names.MANY, "unpooled"),
        names.ours("fp32", names.MANY),
        names.bare("fp32", "ready pixels"),
        names.ours("fp32", callers["fp32"]),  # mostly the same as before
        names.pipeline("fp32"),
        names.ours(fast, callers[fast]),
        names.pipeline(peer_fast),
        names.ours(fast, names.MANY),
        names.litserve(peer_fast, names.MANY),
        names.litserve(peer_fast, 1),
        names.ours(fast, 1),
        names.litserve("fp32", 1),
        names.ours("fp32", 1),
        names.one_by_one("fp32"),
    ]
