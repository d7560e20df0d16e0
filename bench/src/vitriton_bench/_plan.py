"""What a report measures, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitriton_bench import _names as names
from vitriton_bench._checkpoint import Size


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a report.

    Attributes:
        model: a checkpoint's folder or a hub id; None for a ViT of random weights.
        size: of that ViT.
        images: a folder.
        work: exports and checkpoints are written into it.
        reuse: take the exports that are there.
        perf_analyzer: the program; None to look for it.
        budget_s: of the whole run: rounds end when it does.
        rounds: at most.
        seconds: of each measurement; of a loaded server longer, until its callers had three answers each.
        look_s: of a short look for the best setting.
        sweep_s: of a point of the sweep.
        steady_s: of a measurement at a steady rate.
        callers: those that the sweep tries.
        batches: those that are tried in one process.
        accelerator: of the exports, as `vitriton export` takes it.
    """

    model: str | None = None
    size: Size = "base"
    images: Path
    work: Path
    reuse: bool = False
    perf_analyzer: Path | None = None
    budget_s: float = 1080.0
    rounds: int = 5
    seconds: float = 5.0
    look_s: float = 2.0
    sweep_s: float = 9.0
    steady_s: float = 25.0
    callers: tuple[int, ...] = (1, 8, 16, names.MANY)
    batches: tuple[int, ...] = (1, 8, 16)
    accelerator: str | None = None


def quick(**settings: object) -> Plan:
    """Two minutes: a ViT-Tiny, short looks, few rounds. It shows that all of it works, and how roughly."""
    short = {
        "size": "tiny",
        "budget_s": 105.0,
        "rounds": 3,
        "seconds": 1.0,
        "look_s": 0.4,
        "sweep_s": 1.5,
        "steady_s": 3.0,
        "callers": (1, 8, names.MANY),
        "batches": (1, 8),
    }
    return Plan(**{**short, **settings})  # type: ignore[arg-type]  # the names of settings are the command's own
