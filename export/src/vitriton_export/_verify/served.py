"""A model on a running server: its description, and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np
from vitriton import Client
from vitriton._console.server import ServerOptions
from vitriton._repository.names import IMAGE, OUTPUT, PIXELS, Kind, first_step_name
from vitriton._served.failures import Call, to_error
from vitriton._served.model import ModelInfo, ModelOutput
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, InferReply, InferRequest

from vitriton_export._errors import ExportError
from vitriton_export._parity.compare import Array, BatchResult
from vitriton_export._verify.check import find
from vitriton_export._verify.exported import Exported, from_parameters

# Why a server that answers may not serve its preprocess model: it is missing, not ready, or restricted.
_OUT_OF_REACH = (Failure.UNKNOWN_MODEL, Failure.NOT_READY, Failure.RESTRICTED)
# Floats come from processors that rescale before they resize, or that pack patches.
_PIXEL_DTYPES = {"UINT8": np.uint8, "FP32": np.float32}


class ServerRunner:
    """A served model, called over the network as in production; a context manager.

    Args:
        server: the server's address and the options of the connection.
        name: the name of the export; None: the only one on the server.
        timeout_s: the timeout of each request, in seconds.

    Attributes:
        exported: the model's description of itself.
        address: the address of the server.
        skipped: the reasons why stages cannot be seen from outside, by stage.

    Raises:
        ExportError: the server has no such model, or several models, or the model's parameters are incomplete.
        VitritonError: the server does not answer.
        InvalidOption: an option of the connection cannot be used.
    """

    def __init__(self, server: ServerOptions, name: str | None, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._transport = server.transport()
        self.address = self._transport.address
        try:
            model = find(self._transport, name, timeout_s)
            ready = {output.kind: output for output in model.outputs if output.ready}
            self.exported = _describe(model, ready)
            self._client: Client = server.client(model=model.name, timeout_s=timeout_s)
        except BaseException:
            self._transport.close()
            raise
        self.skipped: dict[str, str] = {
            OUTPUT[output.kind]: f"{output.model} is not ready: {output.reason or output.state}"
            for output in model.outputs
            if not output.ready
        }

    def __enter__(self) -> ServerRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the connections."""
        self._client.close()
        self._transport.close()

    def run(self, images: Sequence[bytes]) -> BatchResult:
        """Requests the outputs, and the pixels where possible; images that the server refuses are refused.

        Raises:
            VitritonError: the server does not answer the request.
        """
        first, *others = self.exported.kinds
        results = self._client.embed(images, pool=first == "pooled", on_error="return")
        refused = {result.index: result.error.reason for result in results if result.error is not None}
        accepted = [data for position, data in enumerate(images) if position not in refused]
        if not accepted:
            return BatchResult(refused, {})
        vectors = [result.embedding for result in results if result.embedding is not None]
        values: dict[str, Array] = {OUTPUT[first]: np.stack(vectors)}
        for kind in others:
            values[OUTPUT[kind]] = self._client.embed(accepted, pool=kind == "pooled")
        if PIXELS not in self.skipped:
            values |= self._pixels(accepted)
        return BatchResult(refused, values)

    def _pixels(self, images: Sequence[bytes]) -> Mapping[str, Array]:
        """Requests the pixels from the shared preprocess step; empty where the server does not serve it."""
        model = first_step_name(self.exported.name)
        try:
            # one at a time: the client, which keeps requests below the server's limits, does not make these requests
            return {PIXELS: np.concatenate([self._ask_pixels(model, image) for image in images])}
        except CallError as exc:
            if classify(exc.code, exc.message) not in _OUT_OF_REACH:
                call = Call(address=self._transport.address, model=model, timeout_s=self._timeout_s, expired=False)
                raise to_error(exc, call) from exc
            self.skipped[PIXELS] = f"the server does not serve {model} to this client: {exc.message}"
            return {}

    def _ask_pixels(self, model: str, image: bytes) -> Array:
        request = InferRequest(
            model=model, input_name=IMAGE, images=[image], output_name=PIXELS, timeout_s=self._timeout_s
        )
        return _as_pixels(self._transport.infer(request, self._timeout_s))


def _as_pixels(reply: InferReply) -> Array:
    dtype = _PIXEL_DTYPES.get(reply.datatype)
    if dtype is None:
        wanted = " or ".join(_PIXEL_DTYPES)
        raise ExportError(f"the preprocess model returned {reply.name} {reply.datatype}, and pixels are {wanted}")
    return np.frombuffer(reply.data, dtype).reshape(reply.shape)


def _describe(model: ModelInfo, ready: Mapping[Kind, ModelOutput]) -> Exported:
    any_of_them = next(iter(ready.values()))
    sizes = [output.max_batch_size or 1 for output in ready.values()]
    kinds: list[Kind] = [output.kind for output in model.outputs]
    return from_parameters(model.name, list(ready), kinds, min(sizes), any_of_them.datatype, model.parameters)
