"""What a report measures, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitriton_bench._load.point import Arrivals

from report import names

Size = Literal["base", "tiny"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a report.

    Attributes:
        model: a checkpoint's folder or a hub id; None for a ViT of random weights.
        size: the size of that ViT.
        images: the folder of photos.
        work: exports and checkpoints are written into it.
        reuse: take the exports that are there.
        perf_analyzer: the program; None to look for it.
        budget_s: the time of the whole run; rounds end when it does.
        rounds: the most rounds.
        seconds: the length of each measurement; longer until all callers had two answers.
        look_s: the length of a short look for the best setting.
        looks: how many looks there are at each setting of our own side.
        peer_looks: the same of the pipelines, which are not to lose by a look in a slow moment.
        sweep_s: the length of each point of the sweep.
        steady: how requests at a steady rate come, for one measurement after the other.
        steady_s: the length of each of these measurements.
        looks_after: how many rounds of what follows: the preprocessing step alone, a ViT-Tiny.
        after_s: the time that all that follows the rounds needs.
        callers: the numbers of callers that the sweep tries.
        batches: the batch sizes that are tried in one process.
        all_ways: the sweep also has HTTP, shared memory, larger requests and tokens.
        limits_twice: look at the machine's limits again after the rounds.
        accelerator: the accelerator of the exports, as `vitriton export` takes it.
    """

    model: str | None = None
    size: Size = "base"
    images: Path
    work: Path
    reuse: bool = False
    perf_analyzer: Path | None = None
    budget_s: float = 1290.0
    rounds: int = 5
    seconds: float = 4.0
    look_s: float = 2.0
    looks: int = 1
    peer_looks: int = 3
    sweep_s: float = 6.0
    steady: tuple[Arrivals, ...] = ("constant", "constant", "poisson", "constant", "constant")
    steady_s: float = 10.0
    looks_after: int = 5
    after_s: float = 300.0
    callers: tuple[int, ...] = (1, 16, names.MANY)
    batches: tuple[int, ...] = (1, 8, 16)
    all_ways: bool = True
    limits_twice: bool = True
    accelerator: str | None = None

    @property
    def repository(self) -> Path:
        """The model repository with the exports."""
        return self.work / "models"


def quick_plan(**settings: object) -> Plan:
    """Two minutes: a ViT-Tiny, short looks, few rounds. It shows that all of it works, and how roughly."""
    short = {
        "size": "tiny",
        "budget_s": 104.0,
        "rounds": 3,
        "seconds": 0.5,
        "look_s": 0.4,
        "peer_looks": 1,
        "sweep_s": 1.0,
        "steady": ("constant",),
        "steady_s": 2.0,
        "looks_after": 2,
        "after_s": 35.0,
        "callers": (names.MANY,),
        "batches": (8,),
        "all_ways": False,
        "limits_twice": False,
    }
    return Plan(**{**short, **settings})  # type: ignore[arg-type]  # the names of settings are the command's own
