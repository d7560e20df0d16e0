"""A model on a running server: its description, and its results."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
from vitriton import Client, Result
from vitriton._console.server import ServerOptions
from vitriton._repository.names import ENSEMBLES, OUTPUT, Kind, Tower, first_step_name
from vitriton._served.failures import Call, to_error
from vitriton._served.model import ModelInfo, ModelOutput
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, InferReply, InferRequest, Transport

from vitriton_export._errors import ExportError
from vitriton_export._parity.compare import Array, BatchResult
from vitriton_export._verify.check import find
from vitriton_export._verify.exported import Exported, from_parameters

# Why a server that answers may not serve its first step: it is missing, not ready, or restricted.
_OUT_OF_REACH = (Failure.UNKNOWN_MODEL, Failure.NOT_READY, Failure.RESTRICTED)
# The outputs of first steps: pixels (floats from processors that rescale before they resize, or that pack patches), ids
_DTYPES = {"UINT8": np.uint8, "FP32": np.float32, "INT64": np.int64}


def open_towers(
    server: ServerOptions, name: str | None, timeout_s: float, resources: contextlib.ExitStack
) -> tuple[list[ServerRunner], ModelInfo]:
    """Opens the towers of a served model that answer.

    Args:
        server: the server's address and the options of the connection.
        name: the name of the export; None: the only one on the server.
        timeout_s: the timeout of each request, in seconds.
        resources: the stack that closes the connections.

    Raises:
        ExportError: the server has no such model, or several models, or the model's parameters are incomplete.
        VitritonError: the server does not answer.
        InvalidOption: an option of the connection cannot be used.
    """
    transport = resources.enter_context(contextlib.closing(server.transport()))
    model = find(transport, name, timeout_s)
    client: Client = resources.enter_context(server.client(model=model.name, timeout_s=timeout_s))
    ready = [tower for tower in model.towers if model.is_ready_for(tower)]
    return [ServerRunner(model, tower, transport, client, timeout_s) for tower in ready], model


class ServerRunner:
    """A tower of a served model, called over the network as in production.

    Args:
        model: the model; an output of the tower is ready.
        tower: the tower.
        transport: the connection to the server.
        client: the client of the model.
        timeout_s: the timeout of each request, in seconds.

    Attributes:
        exported: the model's description of itself.
        skipped: the reasons why stages cannot be seen from outside, by stage.

    Raises:
        ExportError: the model's parameters are incomplete.
    """

    def __init__(self, model: ModelInfo, tower: Tower, transport: Transport, client: Client, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._transport = transport
        self._client = client
        outputs = [output for output in model.outputs if output.tower == tower]
        self.exported = _describe(model, outputs)
        self.skipped: dict[str, str] = {
            OUTPUT[output.kind]: f"{output.model} is not ready: {output.reason or output.state}"
            for output in outputs
            if not output.ready
        }

    def run(self, inputs: Sequence[bytes]) -> BatchResult:
        """Requests the outputs, and those of the first step where possible; inputs that the server refuses are refused.

        Raises:
            VitritonError: the server does not answer the request.
        """
        first, *others = self.exported.kinds
        results = self._embed(inputs, first)
        refused = {result.index: result.error.reason for result in results if result.error is not None}
        accepted = [data for position, data in enumerate(inputs) if position not in refused]
        if not accepted:
            return BatchResult(refused, {})
        values: dict[str, Sequence[Array]] = {OUTPUT[first]: _arrays(results)}
        for kind in others:
            values[OUTPUT[kind]] = _arrays(self._embed(accepted, kind))
        stage = ENSEMBLES[first].between[0]
        if stage not in self.skipped:
            values |= self._first_step(accepted, stage)
        return BatchResult(refused, values)

    def _embed(self, inputs: Sequence[bytes], kind: Kind) -> list[Result]:
        pool = ENSEMBLES[kind].pooled
        if self.exported.tower == "image":
            return self._client.embed(inputs, pool=pool, on_error="return")
        # without a prompt: the reference has none
        return self._client.embed_texts([text.decode() for text in inputs], pool=pool, prompt="", on_error="return")

    def _first_step(self, inputs: Sequence[bytes], stage: str) -> Mapping[str, Sequence[Array]]:
        """Requests the output of the step that the ensembles share; empty where the server does not serve it."""
        model = first_step_name(self.exported.name, self.exported.kinds[0])
        try:
            # one at a time: the client, which keeps requests below the server's limits, does not make these requests
            return {stage: [self._ask(model, data) for data in inputs]}
        except CallError as exc:
            if classify(exc.code, exc.message) not in _OUT_OF_REACH:
                call = Call(address=self._transport.address, model=model, timeout_s=self._timeout_s, expired=False)
                raise to_error(exc, call) from exc
            self.skipped[stage] = f"the server does not serve {model} to this client: {exc.message}"
            return {}

    def _ask(self, model: str, data: bytes) -> Array:
        """Requests the pixels of an image, or the token ids of a text without their padding."""
        ensemble = ENSEMBLES[self.exported.kinds[0]]
        output, *others = ensemble.between
        request = InferRequest(
            model=model,
            input_name=ensemble.input,
            images=[data],
            output_name=output,
            beside=tuple(others),
            timeout_s=self._timeout_s,
        )
        reply = self._transport.infer(request, self._timeout_s)
        row: Array = _as_array(reply)[0]
        kept: Array = row[_as_array(reply.beside[0])[0] == 1] if others else row
        return kept


def _arrays(results: Sequence[Result]) -> list[Array]:
    return [result.embedding for result in results if result.embedding is not None]


def _as_array(reply: InferReply) -> Array:
    dtype = _DTYPES.get(reply.datatype)
    if dtype is None:
        wanted = " or ".join(_DTYPES)
        raise ExportError(f"the first step returned {reply.name} {reply.datatype}, and it should be {wanted}")
    return np.frombuffer(reply.data, dtype).reshape(reply.shape)


def _describe(model: ModelInfo, outputs: Sequence[ModelOutput]) -> Exported:
    ready = [output for output in outputs if output.ready]
    sizes = [output.max_batch_size or 1 for output in ready]
    kinds, exported = ([output.kind for output in each] for each in (ready, outputs))
    return from_parameters(model.name, kinds, exported, min(sizes), ready[0].datatype, model.parameters)
