"""The whole report on texts: exports, the peers, the best settings of each, and rounds in which all take turns."""

from __future__ import annotations

import importlib.util
import logging
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitriton._repository.names import ensemble_name
from vitriton_bench._errors import BenchError

from report import names
from report.exports.exports import export_one
from report.plan import TextPlan
from report.rounds.rounds import Measurement
from report.rounds.speed import best_of
from report.run import carry_out
from report.sides.infinity import Infinity, versions
from report.sides.peer import Peer
from report.sides.reference import worst_cosine
from report.sides.texts import SentenceEncoder, TextPipeline
from report.sides.triton import served
from report.texts.state import FAST, TextState

_PRECISIONS = ("fp32", FAST)
_BUSY = 1.0  # programs that want a core, before the run begins


def run(plan: TextPlan, target: Path | None, command: str, tell: Callable[[str], None]) -> dict[str, Any]:
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
    logging.getLogger("vitriton").setLevel(logging.ERROR)  # a line for each text that is cut would be measured, too
    return carry_out(TextState(plan, target, command, tell), (prepare, start, accuracy), (best, rounds))


def prepare(state: TextState) -> None:
    """Exports the model in both precisions, and starts a server for each."""
    state.scratch = Path(state.stack.enter_context(tempfile.TemporaryDirectory(prefix="vitriton-bench-")))
    plan, stem = state.plan, Path(state.plan.model).name
    state.document["load"] = os.getloadavg()[0]
    if state.document["load"] > _BUSY:
        state.clock.say(f"this machine is busy (load {state.document['load']:.1f}): the peers will look too slow")
    state.served = {}
    for precision in _PRECISIONS:
        name = f"{stem}-{precision}"
        export_one(plan, plan.model, name, state.clock.say, precision=precision, outputs="pooled", gpu=False)
        if not (plan.repository / ensemble_name(name, "text_pooled")).is_dir():
            raise BenchError(f"{plan.model} is no model for texts; name one with --model")
        server = served(plan.repository, name, "text_pooled", state.texts, state.scratch / "served")
        state.served[precision] = state.stack.enter_context(server)
    state.document["model"] = {"label": stem}


def start(state: TextState) -> None:
    """Loads the peers, and describes the texts by their tokens and the padding of the served models."""
    state.clock.say("loading the peers")
    plan = state.plan
    tokens = state.served["fp32"].tokens(state.texts)
    state.document["texts"] |= {
        "mean_tokens": statistics.mean(tokens.counts),
        "least_tokens": min(tokens.counts),
        "most_tokens": max(tokens.counts),
        "padding": tokens.padding,
    }
    state.pipeline = TextPipeline(plan.model, state.texts, max(tokens.counts))
    if importlib.util.find_spec("sentence_transformers") is None:
        state.left_out("sentence-transformers", "it is not installed; `make bench-texts` installs it")
    else:
        state.encoder = SentenceEncoder(plan.model, state.texts)
    try:
        state.document["infinity"] = versions(plan.infinity)
        server = state.stack.enter_context(Infinity(plan.infinity, plan.model, plan.callers))
        state.infinity = Peer(server, state.texts)
    except BenchError as exc:
        state.left_out("infinity", exc)


def accuracy(state: TextState) -> None:
    """Takes the worst cosine similarity with sentence-transformers, or without it transformers, one text at a time."""
    state.clock.say("how far each is from the reference")
    alone = state.pipeline.embed(state.texts, 1) if state.encoder is None else state.encoder.embed(state.texts, 1)
    answers = {f"Vitriton {precision}": own.embed(state.texts) for precision, own in state.served.items()}
    answers[names.pipeline("fp32")] = state.pipeline.embed(state.texts, 8)
    if state.encoder is not None:
        answers[names.SENTENCES] = state.encoder.embed(state.texts, 32)
    if state.infinity is not None:
        answers["infinity fp32"] = state.infinity.embed(state.texts)
    state.document["accuracy"] = {name: worst_cosine(own, alone) for name, own in answers.items()}


def best(state: TextState) -> None:
    """Finds the best batch size of what runs in this process, and the rate that infinity-emb reaches."""
    plan, settings = state.plan, state.document["settings"]
    state.clock.say(f"which of the batch sizes {', '.join(map(str, plan.batches))} is best for each")
    samples = {names.pipeline("fp32"): state.pipeline.sample}
    if state.encoder is not None:
        samples[names.SENTENCES] = state.encoder.sample
    speeds = {name: best_of(sample, plan.batches, plan.seconds / 4, plan.looks) for name, sample in samples.items()}
    state.document["looks"] = {name: {str(b): speed for b, speed in own.items()} for name, own in speeds.items()}
    settings["batch"] = {name: max(own, key=lambda batch: own[batch]) for name, own in speeds.items()}
    if state.infinity is not None:
        state.clock.say("the rate of infinity")
        state.infinity.sample(plan.callers, plan.seconds / 4)  # the first answers of a server are slow
        looks = [state.infinity.sample(plan.callers, plan.seconds).inputs_per_s for _ in range(plan.looks)]
        settings["rate"] = statistics.median(looks)
    for own in state.served.values():
        own.sample(plan.callers, plan.seconds / 4)


def rounds(state: TextState) -> None:
    """Measures rounds until the time is over."""
    state.take_turns(_measurements(state), state.plan.rounds)


def _measurements(state: TextState) -> dict[str, Measurement]:
    """All measurements of a round, by name; the two sides of a ratio are neighbors where that can be."""
    plan, settings, found = state.plan, state.document["settings"], dict[str, Measurement]()
    batch, callers, seconds = settings["batch"], plan.callers, plan.seconds
    infinity, encoder, rate = state.infinity, state.encoder, settings.get("rate")
    if encoder is not None:
        found[names.SENTENCES] = lambda: encoder.sample(batch[names.SENTENCES], seconds)
    found[names.ours("fp32", callers)] = lambda: state.served["fp32"].sample(callers, seconds)
    if infinity is not None:
        found[names.infinity(callers)] = lambda: infinity.sample(callers, seconds)
    found[names.ours(FAST, callers)] = lambda: state.served[FAST].sample(callers, seconds)
    found[names.pipeline("fp32")] = lambda: state.pipeline.sample(batch[names.pipeline("fp32")], seconds)
    if rate is not None:
        found[names.at_peers_rate("fp32")] = lambda: state.served["fp32"].paced(rate, seconds)
        found[names.at_peers_rate(FAST)] = lambda: state.served[FAST].paced(rate, seconds)
    return found
