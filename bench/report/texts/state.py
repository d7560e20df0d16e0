"""The state that the phases of a report on texts share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitriton_bench import _texts

from report.plan import TextPlan
from report.sides.peer import Peer
from report.sides.texts import SentenceEncoder, TextPipeline
from report.sides.triton import Served
from report.state import Race

FAST = "int8"


class TextState(Race):
    """The state of one run with texts.

    Args:
        plan: the settings of the report.
        target: the file of the document; None for none.
        command: the command line that the document names.
        tell: the function that shows a line of progress.

    Attributes:
        texts: the texts.
        served: the Triton servers, by precision.
        pipeline: transformers' pipeline.
        encoder: sentence-transformers; None if it is not installed.
        infinity: infinity-emb; None if it is not installed, or did not get ready.

    Raises:
        UnusableOption: there are no texts.
    """

    served: dict[str, Served]
    pipeline: TextPipeline
    encoder: SentenceEncoder | None
    infinity: Peer[str] | None

    def __init__(self, plan: TextPlan, target: Path | None, command: str, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.texts = _texts.check(plan.texts)
        self.encoder = self.infinity = None
        settings = {"device": "cpu", "fast": FAST, "callers": plan.callers, "seconds": plan.seconds}
        described = {"texts": _texts.describe(self.texts), "settings": settings | {"rounds": plan.rounds}}
        super().__init__(plan.budget_s, described, target, command, tell)
