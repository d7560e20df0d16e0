"""The state that the phases of a report share: the plan, the clock, the document, and the sides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from vitriton_bench import _machine, _photos
from vitriton_bench._document import FORMAT, Record
from vitriton_bench._errors import BenchError
from vitriton_bench._payload import find_images
from vitriton_bench._perf_analyzer.program import PerfAnalyzer
from vitriton_server import usable_cores

from report.clock import Clock
from report.exports.exports import Exports
from report.plan import Plan
from report.rounds.rounds import Measurement, run
from report.sides.onnx_runtime import Bare
from report.sides.peer import Peer
from report.sides.pipeline import Pipeline
from report.sides.triton import Served


class Race:
    """The state of any run in which sides take turns.

    Args:
        budget_s: the time of the whole run, in seconds.
        described: the entries that the document begins with, beside those of every run.
        target: the file of the document; None for none.
        command: the command line that the document names.
        tell: the function that shows a line of progress.

    Attributes:
        stack: the contexts that end with the run.
        scratch: the temporary folder of the run.
        clock: the elapsed and the remaining time.
        record: the document, which is written as it grows.
    """

    scratch: Path

    def __init__(
        self, budget_s: float, described: dict[str, Any], target: Path | None, command: str, tell: Callable[[str], None]
    ) -> None:
        self.clock = Clock(budget_s, tell)
        self.stack = contextlib.ExitStack()
        began = {"format": FORMAT, "command": command, "machine": _machine.describe(), "versions": _machine.versions()}
        self.record = Record({**began, **described, "failed": {}}, target, counts=("sweep", "rounds"))

    @property
    def document(self) -> dict[str, Any]:
        """The document, with all measurements so far."""
        return self.record.document

    def left_out(self, name: str, reason: object) -> None:
        """Notes and shows that something is not measured."""
        self.document["failed"][name] = str(reason)
        self.clock.say(f"{name} is left out: {reason}")

    def take_turns(self, measurements: Mapping[str, Measurement], most: int, *, reserve_s: float = 0.0) -> None:
        """Measures rounds until the time is over; the document is saved before each.

        Args:
            measurements: the measurements of a round, by name.
            most: the most rounds.
            reserve_s: the time that must be left after the rounds, in seconds.
        """

        def say(text: str) -> None:
            self.record.save()
            self.clock.say(text)

        self.document["rounds"] = []
        run(
            measurements,
            self.document["rounds"],
            self.document["failed"],
            most=most,
            allowed_s=lambda: self.clock.left_s - reserve_s,
            say=say,
        )


class State(Race):
    """The state of one run with images.

    Args:
        plan: the settings of the report.
        target: the file of the document; None for none.
        command: the command line that the document names.
        tell: the function that shows a line of progress.

    Attributes:
        payload: the file of the photos for perf_analyzer.
        analyzer: the perf_analyzer program.
        exports: the exports to compare.
        bares: the ONNX Runtime sides, by precision.
        pipelines: the transformers pipelines, by dtype.
        peers: the LitServe servers that got ready, by dtype.
        served: the Triton servers, by precision and kind.

    Raises:
        BenchError: there are no photos.
    """

    payload: Path
    analyzer: PerfAnalyzer
    exports: Exports
    bares: dict[str, Bare]
    pipelines: dict[str, Pipeline]
    peers: dict[str, Peer[bytes]]
    served: dict[tuple[str, str], Served]

    def __init__(self, plan: Plan, target: Path | None, command: str, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.cores = usable_cores()
        self.gpu = torch.cuda.is_available()
        self.fast, self.peer_fast = ("fp16", "fp16") if self.gpu else ("int8", "bf16")
        self.images = _read(plan.images)
        settings = {
            "device": "gpu" if self.gpu else "cpu",
            "fast": self.fast,
            "peer_fast": self.peer_fast,
            "seconds": plan.seconds,
            "rounds": plan.rounds,
        }
        described = {"images": _photos.describe(self.images), "settings": settings}
        super().__init__(plan.budget_s, described, target, command, tell)


def _read(folder: Path) -> list[bytes]:
    paths = find_images(folder)
    if not paths:
        raise BenchError(f"{folder} has no photos; name a folder of .jpg, .jpeg, .png or .webp files with --images")
    return [path.read_bytes() for path in paths]
