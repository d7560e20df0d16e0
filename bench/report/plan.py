"""The settings of a report: what it measures, and for how long."""

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
        model: the folder or hub id of a checkpoint; None: a ViT with random weights.
        size: the size of that ViT.
        images: the folder of photos.
        work: the folder for exports and checkpoints.
        reuse: whether to use existing exports.
        perf_analyzer: the perf_analyzer program; None: it is searched for.
        budget_s: the time of the whole run; rounds end when it does.
        rounds: the most rounds.
        seconds: the length of each measurement, longer until all callers have two answers.
        look_s: the length of a short measurement for the best setting.
        looks: the number of short measurements of each setting of our own side.
        peer_looks: the number for the pipelines, higher so that they do not lose by one slow moment.
        sweep_s: the length of each point of the sweep.
        steady: the arrivals of requests at a steady rate, one measurement for each.
        steady_s: the length of each measurement at a steady rate.
        looks_after: the number of rounds of the later measurements: the preprocessing step alone, a ViT-Tiny.
        after_s: the time that all phases after the rounds need.
        callers: the numbers of callers in the sweep.
        batches: the batch sizes to try in one process.
        all_ways: whether the sweep includes HTTP, shared memory, larger requests and tokens.
        limits_twice: whether to measure the machine's limits again after the rounds.
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

    @property
    def repository(self) -> Path:
        """The model repository with the exports."""
        return self.work / "models"


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """The settings of a report on texts.

    Attributes:
        model: the folder of a checkpoint of sentence-transformers.
        work: the folder for exports.
        texts: the file of the texts, one on each line; None: the built-in ones.
        infinity: the program infinity_emb, in an environment of its own.
        reuse: whether to use existing exports.
        budget_s: the time of the whole run; rounds end when it does.
        rounds: the most rounds.
        seconds: the length of each measurement, longer until all callers have two answers.
        looks: the number of measurements of each setting of the peers, before the rounds.
        batches: the batch sizes to try in one process.
        callers: the number of callers.
    """

    model: str
    work: Path
    texts: Path | None = None
    infinity: Path = Path(".venv-texts/bin/infinity_emb")
    reuse: bool = False
    budget_s: float = 690.0
    rounds: int = 7
    seconds: float = 6.0
    looks: int = 2
    batches: tuple[int, ...] = (1, 8, 32, 64)
    callers: int = names.MANY

    @property
    def repository(self) -> Path:
        """The model repository with the exports."""
        return self.work / "models"


def quick_text_plan(**settings: object) -> TextPlan:
    """A plan with one short round, which shows that everything works."""
    short = {"budget_s": 60.0, "rounds": 1, "seconds": 0.3, "looks": 1, "batches": (32,), "callers": 4}
    return TextPlan(**{**short, **settings})  # type: ignore[arg-type]  # the names of settings are the command's own


def quick_plan(**settings: object) -> Plan:
    """A plan for two minutes, with a ViT-Tiny, short measurements and few rounds, which shows that everything works."""
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
