"""Compares what a server computes with the references of its exports (references.json), before it counts as ready.

The gate of `vitriton export` ran on another machine, perhaps. Here are the processor, the Pillow, the backend and the
accelerator that serve: one of them may compute something else, as TensorRT does with some graphs, or int8 on a CPU
without VNNI.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from vitriton._repository import disk
from vitriton._repository.names import ENSEMBLES, Ensemble, read_ensemble_name, step_names
from vitriton._repository.references import Expected, Floats, References, read
from vitriton._wire.channel import CHANNEL_OPTIONS

_DTYPES = {"FP32": "<f4", "FP16": "<f2"}
_PIXELS = "its pixels differ from the reference's: is it another Pillow, or one with another JPEG decoder?"


def fault(address: str, ensemble: Path, steps: Mapping[str, int], timeout_s: float) -> str | None:
    """Says how a server's outputs differ from the references of an ensemble; None if they do not.

    The steps are called one after the other, so that nothing counts as a request of a client, and an ensemble may be
    compared before it is loaded.

    Args:
        address: the `host:port` of the server's gRPC endpoint.
        ensemble: the version folder of the ensemble. Without references (an older export) it has no fault.
        steps: the version of each step, by name.
        timeout_s: the longest wait for an answer, in seconds.
    """
    try:
        references = read(ensemble)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return f"its references cannot be read ({exc!r}); export it again"
    told = read_ensemble_name(ensemble.parent.name)
    if references is None or told is None or not steps.keys() >= set(step_names(*told)):
        return None
    first, encoder = ((step, steps[step]) for step in step_names(*told))
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            return next(_faults(_Steps(stub, ENSEMBLES[told[1]], first, encoder, timeout_s), references), None)
        except grpc.RpcError as exc:
            return f"it could not be compared with its references: {exc.details() or exc.code().name}"


def _faults(steps: _Steps, references: References) -> Iterator[str]:
    """The faults, worst first: pixels before outputs, as these follow from them."""
    outputs = []
    for each in references.inputs:
        between = steps.prepare(each.data)
        pixels = between[0].content
        if each.pixels_sha256 not in (None, hashlib.sha256(pixels).hexdigest()):
            yield f"{each.name}: {_PIXELS}"
        outputs.append((_distance(steps.encode(between), each, references), each.name))
    distance, name = max(outputs)
    if distance.fails:
        yield f"{name}: {distance.text}"


class _Distance(NamedTuple):
    """The distance of an output from the reference's.

    Attributes:
        fails: whether it is more than the export allows.
        size: the distance itself, to find the worst.
        text: the distance in words, with what is allowed.
    """

    fails: bool
    size: float
    text: str


def _distance(output: Floats, reference: Expected, references: References) -> _Distance:
    computed = output if reference.rows is None else output[list(reference.rows)]
    expected = reference.values
    if computed.shape != expected.shape:
        return _Distance(True, np.inf, f"the output has shape {computed.shape} in place of {expected.shape}")
    if not np.isfinite(computed).all():
        return _Distance(True, np.inf, "the output has values that are not finite")
    error, cosine = float(np.abs(computed - expected).max()), _lowest_cosine(computed, expected)
    if references.tolerance is not None:
        allowed = references.tolerance * max(1.0, float(np.abs(expected).max()))
        if error > allowed:
            return _Distance(True, error / allowed, f"max abs error {error:.3g}, and {allowed:.3g} is allowed")
    if references.min_cosine is not None and not cosine >= references.min_cosine:
        lowest = f"at least {references.min_cosine:.15g} is demanded"
        return _Distance(True, 1 - cosine, f"cosine {cosine:.6f} to the reference, and {lowest}")
    return _Distance(False, 1 - cosine, "")


def _lowest_cosine(one: Floats, other: Floats) -> float:
    left, right = (each.astype(np.float64).reshape(-1, each.shape[-1]) for each in (one, other))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / np.maximum(lengths, 1e-30)).min())


class _Tensor(NamedTuple):
    """A tensor of an answer, which may be the input of the next step as it is."""

    name: str
    datatype: str
    shape: Sequence[int]
    content: bytes


class _Steps:
    """The two steps of an ensemble on a server."""

    def __init__(
        self,
        stub: service_pb2_grpc.GRPCInferenceServiceStub,
        ensemble: Ensemble,
        first: tuple[str, int],
        encoder: tuple[str, int],
        timeout_s: float,
    ) -> None:
        self._stub = stub
        self._ensemble = ensemble
        self._first = first
        self._encoder = encoder
        self._timeout_s = timeout_s

    def prepare(self, data: bytes) -> list[_Tensor]:
        """Runs the first step on one input."""
        content = len(data).to_bytes(4, "little") + data
        given = _Tensor(self._ensemble.input, "BYTES", (1, 1), content)
        return self._run(self._first, [given], self._ensemble.between)

    def encode(self, between: Sequence[_Tensor]) -> Floats:
        """Runs the encoder on the tensors of the first step: (dimensions,), or (tokens, dimensions)."""
        (output,) = self._run(self._encoder, between, (self._ensemble.output,))
        values: Floats = np.frombuffer(output.content, _DTYPES[output.datatype]).astype(np.float32)
        first: Floats = values.reshape(output.shape)[0]
        return first

    def _run(self, step: tuple[str, int], inputs: Sequence[_Tensor], outputs: Sequence[str]) -> list[_Tensor]:
        version = "" if step[1] == disk.LATEST else str(step[1])
        request = pb.ModelInferRequest(model_name=step[0], model_version=version)
        for tensor in inputs:
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            request.raw_input_contents.append(tensor.content)
        for name in outputs:
            request.outputs.add(name=name)
        reply = self._stub.ModelInfer(request, timeout=self._timeout_s)
        found = {
            tensor.name: _Tensor(tensor.name, tensor.datatype, tensor.shape, content)
            for tensor, content in zip(reply.outputs, reply.raw_output_contents, strict=True)
        }
        return [found[name] for name in outputs]
