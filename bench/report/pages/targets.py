"""The targets of the project, as ratios within one run, computed from the report's file alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitriton_bench._tables.tables import noun

from report import names

Document = Mapping[str, Any]
Ratios = Callable[[Document], list[float]]

BASE_MEMORY_BYTES = 500e6


@dataclass(frozen=True, kw_only=True)
class Target:
    """A ratio to reach.

    Attributes:
        what: the two sides, in words.
        bound: the ratio to reach; None if the ratio is only shown.
        at_least: whether the ratio must be above the bound; else it must be below.
        ratios: the ratios of the rounds in which both sides were measured.
        note: the information that a reader needs to judge the ratio.
    """

    what: str
    bound: float | None
    at_least: bool
    ratios: Ratios
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of a target.

    Attributes:
        target: the target.
        ratios: the ratios of the rounds in which both sides were measured.
    """

    target: Target
    ratios: Sequence[float]

    @property
    def median(self) -> float | None:
        """The median ratio, which counts; None if it was not measured."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the bound; None if it was not measured, or there is no bound."""
        bound = self.target.bound
        if self.median is None or bound is None:
            return None
        return self.median >= bound if self.target.at_least else self.median <= bound


def verdicts(document: Document) -> list[Verdict]:
    """The results of all targets for the run's device."""
    return [Verdict(target=target, ratios=target.ratios(document)) for target in targets(document)]


def targets(document: Document) -> list[Target]:
    """The targets for texts, or else for a CPU or a GPU, with the best settings of the run."""
    settings = document["settings"]
    if noun(document) == "texts":
        return _of_texts(settings["fast"], settings["callers"])
    fast, peer_fast = settings["fast"], settings["peer_fast"]
    callers = settings.get("callers", {})
    best = {precision: names.ours(precision, callers.get(precision, names.MANY)) for precision in ("fp32", fast)}
    if settings["device"] == "gpu":
        return _on_a_gpu(best[fast], fast, peer_fast)
    return [
        *_beside_one_process(best["fp32"]),
        *_beside_the_pipeline(best, fast, peer_fast),
        *_beside_litserve(fast, peer_fast),
        *_at_a_steady_load(document),
        *_of_the_parts(document),
    ]


def _of_texts(fast: str, callers: int) -> list[Target]:
    peer, found = [names.infinity(callers)], list[Target]()
    for precision, bound in (("fp32", 1.3), (fast, 2.0)):
        ours = names.ours(precision, callers)
        what = f"{callers} callers: {precision} / infinity fp32"
        found.append(_speed(what, ours, peer, bound))
        at_rate = f"p99, {precision} at infinity's rate / infinity with {callers} callers"
        found.append(_latency(at_rate, names.at_peers_rate(precision), peer, 1.0, "p99_ms"))
        for other in (names.SENTENCES, names.pipeline("fp32")):
            found.append(_speed(f"{callers} callers: {precision} / {other}", ours, [other], None))
    return found


def _on_a_gpu(best: str, fast: str, peer_fast: str) -> list[Target]:
    return [
        Target(
            what=f"ONNX Runtime {fast} alone / {fast} matrix peak",
            bound=0.5,
            at_least=True,
            ratios=lambda known: _of_peak(known, names.bare(fast, "ready pixels"), fast),
        ),
        _speed(f"{best} / the pipeline's best", best, [names.pipeline("fp32"), names.pipeline(peer_fast)], 3.0),
    ]


def _beside_one_process(best: str) -> list[Target]:
    alone = [names.bare("fp32", "ready pixels")]
    return [
        _speed("served / ONNX Runtime alone on ready pixels, fp32", best, alone, 0.95),
        Target(
            what="served / decoding and ONNX Runtime in one process, ViT-Tiny fp32",
            bound=0.85,
            at_least=True,
            ratios=lambda known: _ratios(
                known.get("small", {}).get("rounds", []), "served", ["one process"], "inputs_per_s"
            ),
            note="served is measured by perf_analyzer, which shares the cores",
        ),
    ]


def _beside_the_pipeline(best: Mapping[str, str], fast: str, peer_fast: str) -> list[Target]:
    return [
        _speed(f"{own} / pipeline {peer}", best[own], [names.pipeline(peer)], bound)
        for own, peer, bound in ((fast, "fp32", 2.6), (fast, peer_fast, 1.4), ("fp32", "fp32", 1.12))
    ]


def _beside_litserve(fast: str, peer_fast: str) -> list[Target]:
    found = []
    for own, peer, bound in (("fp32", "fp32", 1.05), (fast, peer_fast, 1.4)):
        ours, theirs = names.ours(own, names.MANY), [names.litserve(peer, names.MANY)]
        pair = f"{own} / LitServe {peer}"
        found.append(_speed(f"{names.MANY} callers: {pair}", ours, theirs, bound))
        found.append(_latency(f"{names.MANY} callers: p99, {pair}", ours, theirs, 1.0, "p99_ms"))
    alone = [names.litserve("fp32", 1), names.litserve(peer_fast, 1)]
    what = f"1 caller: p50, {fast} / LitServe at its best"
    return [*found, _latency(what, names.ours(fast, 1), alone, 1.0, "p50_ms")]


def _at_a_steady_load(document: Document) -> list[Target]:
    own, alone = names.ours("fp32", 1), [names.one_by_one("fp32")]
    return [
        _latency("1 caller: p50, served / decoding and inference in one process, fp32", own, alone, 1.1, "p50_ms"),
        Target(
            what="p99 at 70 % of the peak load / decoding and inference alone, fp32",
            bound=2.5,
            at_least=False,
            ratios=lambda known: _steady(known, "constant"),
            note=f"requests come at equal intervals{_jitter(document)}; see bench/wake_ups.py",
        ),
    ]


def _of_the_parts(document: Document) -> list[Target]:
    unpooled, pooled = names.ours("fp32", names.MANY, "unpooled"), names.ours("fp32", names.MANY)
    return [
        Target(
            what="preprocessing inside the step / cores × Pillow on one core",
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
            note="on one core; the last table shows the effect on an embedding",
        ),
        _speed("unpooled / pooled, fp32", unpooled, [pooled], 0.85),
        Target(
            what="memory of the server / (1.5 × weights + 500 MB), fp32",
            bound=1.0,
            at_least=False,
            ratios=_memory,
            note="pages that its processes share are counted once",
        ),
    ]


def _speed(what: str, own: str, others: Sequence[str], bound: float | None) -> Target:
    return Target(
        what=what,
        bound=bound,
        at_least=True,
        ratios=lambda known: _ratios(known.get("rounds", []), own, others, "inputs_per_s"),
    )


def _latency(what: str, own: str, others: Sequence[str], bound: float, field: str) -> Target:
    return Target(
        what=what,
        bound=bound,
        at_least=False,
        ratios=lambda known: _ratios(known.get("rounds", []), own, others, field),
    )


def _ratios(rounds: Sequence[Document], own: str, others: Sequence[str], field: str) -> list[float]:
    """Our figure divided by the best of the others, in each round that has them all."""
    best = max if field == "inputs_per_s" else min
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
    return [entry[own]["inputs_per_s"] * flop / peak for entry in document.get("rounds", []) if own in entry]


def _steady(document: Document, arrivals: str) -> list[float]:
    return [
        entry["p99_ms"] / entry["alone_p50_ms"] for entry in document.get("steady", []) if entry["arrivals"] == arrivals
    ]


def _jitter(document: Document) -> str:
    """A note on the spread of one image's time without a server, which no server can undercut."""
    name = names.one_by_one("fp32")
    alone = [entry[name]["p99_ms"] / entry[name]["p50_ms"] for entry in document.get("rounds", []) if name in entry]
    return f"; one by one without a server, p99 / p50 is {statistics.median(alone):.2f}" if alone else ""


def _threads(document: Document) -> str:
    """A note on the speed of the same number of threads without Triton."""
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
