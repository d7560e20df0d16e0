"""The targets of the project, as ratios of what one run measured; decided from the report's file alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from report import names

Document = Mapping[str, Any]
Ratios = Callable[[Document], list[float]]

BASE_MEMORY_BYTES = 500e6


@dataclass(frozen=True, kw_only=True)
class Target:
    """A ratio that is to be reached.

    Attributes:
        what: the two sides, in words.
        bound: of the ratio.
        at_least: whether the ratio is to be above the bound; else it is to be below.
        ratios: a ratio for each round in which both sides were measured.
        note: what a reader has to know to judge it.
    """

    what: str
    bound: float
    at_least: bool
    ratios: Ratios
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a target came out.

    Attributes:
        what: see Target.
        bound: see Target.
        at_least: see Target.
        median: of the ratios; None where it was not measured.
        low: the lowest.
        high: the highest.
        count: how many.
        met: whether the median reaches the bound; None where it was not measured.
        note: see Target.
    """

    what: str
    bound: float
    at_least: bool
    median: float | None
    low: float | None
    high: float | None
    count: int
    met: bool | None
    note: str


def verdicts(document: Document) -> list[Verdict]:
    """All targets that go with the device of the run."""
    return [judge(target, target.ratios(document)) for target in targets(document)]


def judge(target: Target, ratios: Sequence[float]) -> Verdict:
    """The median counts, and its spread is shown."""
    median = statistics.median(ratios) if ratios else None
    met = None if median is None else (median >= target.bound if target.at_least else median <= target.bound)
    return Verdict(
        what=target.what,
        bound=target.bound,
        at_least=target.at_least,
        median=median,
        low=min(ratios, default=None),
        high=max(ratios, default=None),
        count=len(ratios),
        met=met,
        note=target.note,
    )


def targets(document: Document) -> list[Target]:
    """Those of a CPU, or those of a GPU, with the settings that the run found to be best."""
    settings = document["settings"]
    fast, peer_fast = settings["fast"], settings["peer_fast"]
    best = {precision: settings.get("callers", {}).get(precision, names.MANY) for precision in ("fp32", fast)}
    ours_fp32, ours_fast = names.ours("fp32", best["fp32"]), names.ours(fast, best[fast])
    peers = [names.pipeline("fp32"), names.pipeline(peer_fast)]
    if settings["device"] == "gpu":
        return [
            Target(
                what=f"ONNX Runtime {fast} alone / {fast} matrix peak",
                bound=0.5,
                at_least=True,
                ratios=lambda known: _of_peak(known, names.bare(fast, "ready pixels"), fast),
            ),
            _speed(f"{ours_fast} / the pipeline's best", ours_fast, peers, 3.0),
        ]
    loaded = {precision: names.ours(precision, names.MANY) for precision in ("fp32", fast)}
    peer = {dtype: names.litserve(dtype, names.MANY) for dtype in ("fp32", peer_fast)}
    alone = [names.litserve("fp32", 1), names.litserve(peer_fast, 1)]
    return [
        _speed(
            "served / ONNX Runtime alone on ready pixels, fp32", ours_fp32, [names.bare("fp32", "ready pixels")], 0.95
        ),
        Target(
            what="served / decoding and ONNX Runtime in one process, ViT-Tiny fp32",
            bound=0.85,
            at_least=True,
            ratios=lambda known: _ratios(
                known.get("small", {}).get("rounds", []), "served", ["one process"], "images_per_s"
            ),
            note="served is measured by perf_analyzer, which shares the cores",
        ),
        _speed(f"{fast} / pipeline fp32", ours_fast, peers[:1], 2.6),
        _speed(f"{fast} / pipeline {peer_fast}", ours_fast, peers[1:], 1.4),
        _speed("fp32 / pipeline fp32", ours_fp32, peers[:1], 1.12),
        _speed(f"{names.MANY} callers: fp32 / LitServe fp32", loaded["fp32"], [peer["fp32"]], 1.05),
        _latency(f"{names.MANY} callers: p99, fp32 / LitServe fp32", loaded["fp32"], [peer["fp32"]], 1.0, "p99_ms"),
        _speed(f"{names.MANY} callers: {fast} / LitServe {peer_fast}", loaded[fast], [peer[peer_fast]], 1.4),
        _latency(
            f"{names.MANY} callers: p99, {fast} / LitServe {peer_fast}", loaded[fast], [peer[peer_fast]], 1.0, "p99_ms"
        ),
        _latency(f"1 caller: p50, {fast} / LitServe at its best", names.ours(fast, 1), alone, 1.0, "p50_ms"),
        _latency(
            "1 caller: p50, served / decoding and inference in one process, fp32",
            names.ours("fp32", 1),
            [names.one_by_one("fp32")],
            1.1,
            "p50_ms",
        ),
        Target(
            what="p99 at 70 % of the peak load / decoding and inference alone, fp32",
            bound=2.5,
            at_least=False,
            ratios=lambda known: _steady(known, "constant"),
            note=f"requests come at equal intervals{_jitter(document)}; see bench/wake_ups.py",
        ),
        Target(
            what="preprocessing inside of the step / cores × Pillow on one core",
            bound=0.85,
            at_least=True,
            ratios=_preprocessing,
            note=f"the step is called without an encoder behind it, with 32 images at a time{_threads(document)}",
        ),
        Target(
            what="JPEG of 12 megapixels to pixels: scaled decoding / exact",
            bound=3.0,
            at_least=True,
            ratios=lambda known: [
                entry["exact_s"] / entry["scaled_s"] for entry in known.get("large", {}).get("rounds", [])
            ],
            note="on one core; what it does to an embedding is in the last table",
        ),
        _speed(
            "unpooled / pooled, fp32",
            names.ours("fp32", names.MANY, "unpooled"),
            [names.ours("fp32", names.MANY)],
            0.85,
        ),
        Target(
            what="memory of the server / (1.5 × weights + 500 MB), fp32",
            bound=1.0,
            at_least=False,
            ratios=_memory,
            note="pages that its processes share are counted once",
        ),
    ]


def _speed(what: str, own: str, others: Sequence[str], bound: float) -> Target:
    return Target(
        what=what,
        bound=bound,
        at_least=True,
        ratios=lambda known: _ratios(known.get("rounds", []), own, others, "images_per_s"),
    )


def _latency(what: str, own: str, others: Sequence[str], bound: float, field: str) -> Target:
    return Target(
        what=what,
        bound=bound,
        at_least=False,
        ratios=lambda known: _ratios(known.get("rounds", []), own, others, field),
    )


def _ratios(rounds: Sequence[Document], own: str, others: Sequence[str], field: str) -> list[float]:
    """Own / the best of the others, in each round that has them all."""
    best = max if field == "images_per_s" else min
    return [
        entry[own][field] / best(entry[other][field] for other in others)
        for entry in rounds
        if own in entry and all(other in entry for other in others)
    ]


def _of_peak(document: Document, own: str, precision: str) -> list[float]:
    peak = document.get("limits", {}).get("products", {}).get(precision)
    flop = document.get("model", {}).get("flop")
    if not peak or not flop:
        return []
    return [entry[own]["images_per_s"] * flop / peak for entry in document.get("rounds", []) if own in entry]


def _steady(document: Document, arrivals: str) -> list[float]:
    return [
        entry["p99_ms"] / entry["alone_p50_ms"] for entry in document.get("steady", []) if entry["arrivals"] == arrivals
    ]


def _jitter(document: Document) -> str:
    """How far apart the times of one image are without any server: no server is steadier than that."""
    name = names.one_by_one("fp32")
    alone = [entry[name]["p99_ms"] / entry[name]["p50_ms"] for entry in document.get("rounds", []) if name in entry]
    return f"; one by one without a server, p99 / p50 is {statistics.median(alone):.2f}" if alone else ""


def _threads(document: Document) -> str:
    """What the same threads reach without Triton."""
    cores = document["machine"]["cores"]
    reached = [
        entry["all_cores_images_per_s"] / (cores * entry["one_core_images_per_s"])
        for entry in document.get("preprocessing", [])
    ]
    return f"; as many threads without Triton reach {statistics.median(reached):.2f}" if reached else ""


def _preprocessing(document: Document) -> list[float]:
    cores = document["machine"]["cores"]
    return [
        entry["inside_images_per_s"] / (cores * entry["one_core_images_per_s"])
        for entry in document.get("preprocessing", [])
    ]


def _memory(document: Document) -> list[float]:
    known = document.get("memory")
    return [known["shared_once"] / (1.5 * known["weights"] + BASE_MEMORY_BYTES)] if known else []
