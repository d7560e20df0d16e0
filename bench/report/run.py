"""The whole report: exports, limits, a sweep, rounds against the peers, and further measurements for the targets.

Each phase adds its measurements to one document, which is written after each phase and is the only source of tables,
pages and pictures. An interruption ends the phases and keeps the document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vitriton_bench._errors import BenchError

from report.phases.best import best
from report.phases.large import large
from report.phases.limits import limits, limits_again
from report.phases.memory import memory
from report.phases.preprocessing import preprocessing
from report.phases.rounds import rounds
from report.phases.small import small
from report.phases.start import prepare, start
from report.phases.steady import steady
from report.phases.sweep import sweep
from report.plan import Plan
from report.state import Race, State

R = TypeVar("R", bound=Race)
Phase = Callable[[State], None]

NEEDED: tuple[Phase, ...] = (prepare, limits, start)
OTHERS: tuple[Phase, ...] = (sweep, best, rounds, limits_again, steady, preprocessing, memory, large, small)


def run(plan: Plan, target: Path | None, command: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measures phase after phase; returns the document, also after an interruption.

    Args:
        plan: the settings of the report.
        target: the file of the document; None for none.
        command: the command line that the document names.
        tell: the function that shows a line of progress.

    Raises:
        BenchError: a required part is missing, or there was no time for any load.
        KeyboardInterrupt: the run was interrupted before anything was measured.
    """
    return carry_out(State(plan, target, command, tell), NEEDED, OTHERS)


def carry_out(state: R, needed: Sequence[Callable[[R], None]], others: Sequence[Callable[[R], None]]) -> dict[str, Any]:
    """Runs phase after phase; returns the document, also after an interruption.

    Args:
        state: the state of the run.
        needed: the phases without which there is no run.
        others: the phases that lose only their own figures when they fail.

    Raises:
        BenchError: a required part is missing, or there was no time for any load.
        KeyboardInterrupt: the run was interrupted before anything was measured.
    """
    with state.stack, state.record.kept(state.clock.say):
        for phase in needed:
            phase(state)
            state.record.save()
        for phase in others:
            attempt(phase, state)
            state.record.save()
    if not state.record.has_measured:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in state.document["failed"].items())
        raise BenchError(f"nothing was measured: {reasons}")
    state.document["took_s"] = state.clock.elapsed_s
    return state.record.save()


def attempt(phase: Callable[[R], None], state: R) -> None:
    """Runs a phase; one that fails, or has no time left, loses only its own figures."""
    if state.clock.left_s < 0:
        state.document["failed"][phase.__name__] = "there was no time for it"
        return
    try:
        phase(state)
    except Exception as exc:  # peers and foreign programs can fail in any way
        state.document["failed"][phase.__name__] = f"{type(exc).__name__}: {exc}"
        state.clock.say(f"{phase.__name__} failed and is left out: {exc}")
