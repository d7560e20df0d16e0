"""Prepares the run: payload, perf_analyzer and exports, then all sides, and the accuracy of each."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import torch
from vitriton._repository.names import Kind
from vitriton_bench._errors import BenchError
from vitriton_bench._payload import IMAGE, find_images, read_images, write_payload
from vitriton_bench._perf_analyzer import program

from report.exports.exports import PEER_BATCH, export
from report.sides.litserve import LitServe
from report.sides.peer import Peer
from report.sides.pipeline import Pipeline
from report.sides.reference import flop, worst_cosine
from report.sides.triton import Served, served
from report.state import State


def prepare(state: State) -> None:
    """Writes the payload, finds perf_analyzer, and exports the models."""
    state.scratch = Path(state.stack.enter_context(tempfile.TemporaryDirectory(prefix="vitriton-bench-")))
    state.payload = state.scratch / "payload.json"
    write_payload(read_images(find_images(state.plan.images)), IMAGE, state.payload)
    state.analyzer = program.get(state.plan.perf_analyzer, state.clock.say)
    state.document["versions"]["perf_analyzer"] = state.analyzer.version
    state.exports = export(state.plan, state.fast, state.clock.say, gpu=state.gpu)
    state.document["model"] = state.exports.describe()


def start(state: State) -> None:
    """Loads the peers and starts the servers, in parallel."""
    state.clock.say("loading the peers, starting the servers")
    exports, device = state.exports, "cuda" if state.gpu else "cpu"
    peers = {
        dtype: state.stack.enter_context(LitServe(exports.model, dtype, exports.pooling, PEER_BATCH))
        for dtype in _peer_dtypes(state)
    }
    state.pipelines = {
        dtype: Pipeline(exports.model, dtype, exports.pooling, state.images, device)
        for dtype in ("fp32", state.peer_fast)
    }
    spec = state.bares["fp32"].spec
    pixels = torch.zeros(1, 3, spec.height, spec.width, device=device)
    state.document["model"]["flop"] = flop(state.pipelines["fp32"].network, pixels)
    ways: tuple[tuple[str, Kind], ...] = (("fp32", "pooled"), ("fp32", "unpooled"), (state.fast, "pooled"))
    state.served = {(precision, kind): _serve(state, precision, kind) for precision, kind in ways}
    state.peers = {}
    for dtype, peer in peers.items():
        try:
            state.peers[dtype] = Peer(peer, state.images)
        except BenchError as exc:
            state.left_out(f"LitServe {dtype}", exc)
    state.clock.say("how far each is from float32")
    state.document["accuracy"] = _accuracy(state)


def _peer_dtypes(state: State) -> tuple[str, ...]:
    """The dtypes for LitServe; none if it is not installed."""
    if importlib.util.find_spec("litserve") is not None:
        return ("fp32", state.peer_fast)
    state.left_out("LitServe", "it is not installed; `pip install -r bench/report/requirements.txt`")
    return ()


def _serve(state: State, precision: str, kind: Kind) -> Served:
    name, repository = state.exports.names[precision], state.exports.repository
    return state.stack.enter_context(served(repository, name, kind, state.images, state.scratch / "served"))


def _accuracy(state: State) -> dict[str, float]:
    """The worst image's cosine similarity with transformers in float32, one image at a time."""
    reference = np.concatenate([state.pipelines["fp32"].embed([image], 1) for image in state.images])
    answers = {f"pipeline {dtype}": own.embed(state.images, 8) for dtype, own in state.pipelines.items()}
    answers |= {f"LitServe {dtype}": own.embed(state.images) for dtype, own in state.peers.items()}
    answers |= {f"ONNX Runtime {precision}": own.embed(state.images) for precision, own in state.bares.items()}
    answers |= {
        f"Vitriton {precision}": own.embed(state.images)
        for (precision, kind), own in state.served.items()
        if kind == "pooled"
    }
    return {name: worst_cosine(own, reference) for name, own in answers.items()}
