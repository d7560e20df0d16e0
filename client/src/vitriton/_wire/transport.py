"""The interface between a client and a server, over gRPC, HTTP or a fake."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from vitriton._errors import VitritonError
from vitriton._wire.statistics import ModelStatistics


class Code(str, Enum):
    """gRPC's status codes; HTTP statuses are mapped to them."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class CallError(VitritonError):
    """The only error of a transport; the client turns it into a public error.

    Attributes:
        code: the status code.
        message: the text of the server or the transport.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.value}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor of a model: Triton's datatype (`FP32`, `BYTES`, ...) and the shape without the batch, -1 where open."""

    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The part of a model's configuration that a client reads.

    Attributes:
        name: the name of the model.
        max_batch_size: the most images in a request; 0: the model has no batch dimension.
        inputs: the input tensors, by name.
        outputs: the output tensors, by name.
        parameters: the parameters that the export wrote.
        steps: the names of an ensemble's models, in execution order.
        instances: the number of instances that run in parallel.
    """

    name: str
    max_batch_size: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    parameters: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    instances: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """A line of the server's repository index.

    Attributes:
        name: the name of the model.
        ready: whether the model answers requests.
        state: the state in Triton's words.
        reason: the reason why the model is not ready; empty if it is ready, or if the server gives none.
        version: the version of the model; empty if none was loaded.
    """

    name: str
    ready: bool
    state: str
    reason: str = ""
    version: str = ""


@dataclass(kw_only=True)
class InferRequest:
    """One batch for one model.

    Attributes:
        model: the model's name on the server.
        input_name: the name of the input tensor.
        datatype: the datatype of the input tensor: BYTES, UINT8 or FP32.
        item_shape: the input tensor's shape without the batch: (1,) or (H, W, 3).
        images: the bytes of each image or text: an encoded file or UTF-8 for BYTES, else raw row-major pixels.
        output_name: the name of the requested output tensor.
        beside: the names of other output tensors to return.
        timeout_s: the time after which the server may drop the request from its queue, in seconds; None: the server's
            default.
        headers: the headers of this request alone (trace context), with names in lower case.
    """

    model: str
    input_name: str
    images: Sequence[bytes]
    output_name: str
    timeout_s: float | None
    beside: tuple[str, ...] = ()
    datatype: str = "BYTES"
    item_shape: tuple[int, ...] = (1,)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the input tensor, with the batch."""
        return (len(self.images), *self.item_shape)

    def content(self) -> Sequence[bytes]:
        """The input tensor's bytes, in pieces: row-major; each BYTES element follows its length (uint32)."""
        if self.datatype != "BYTES":
            return self.images
        pieces: list[bytes] = []
        for image in self.images:
            pieces += (struct.pack("<I", len(image)), image)
        return pieces

    def timeout_us(self) -> int | None:
        """`timeout_s` for Triton's request parameter `timeout`; at least 1, because 0 means no timeout."""
        return None if self.timeout_s is None else max(1, math.ceil(self.timeout_s * 1e6))


@dataclass(kw_only=True, slots=True)
class InferReply:
    """The output tensor of a request.

    Attributes:
        name: the name of the tensor.
        datatype: the datatype, by Triton's name.
        shape: the shape, with the batch.
        data: the values, little-endian and row-major.
        beside: the other tensors that were requested, in the order of `InferRequest.beside`.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes
    beside: tuple[InferReply, ...] = ()


def make_reply(tensors: Sequence[InferReply], beside: Sequence[str]) -> InferReply:
    """Makes a reply of the tensors of a message. The output is the one that is not beside it, by whatever name.

    Args:
        tensors: the tensors, in any order.
        beside: the names of those that were requested beside the output.

    Raises:
        CallError: (DATA_LOSS) there are other tensors than were requested.
    """
    if len(tensors) == 1 and not beside:
        return tensors[0]
    others = {tensor.name: tensor for tensor in tensors if tensor.name in beside}
    outputs = [tensor for tensor in tensors if tensor.name not in beside]
    if (len(outputs), len(others), len(tensors)) != (1, len(beside), 1 + len(beside)):
        wanted = f"{', '.join(beside)} and one more were asked for" if beside else "one was asked for"
        held = ", ".join(tensor.name for tensor in tensors) or "no tensor"
        raise CallError(Code.DATA_LOSS, f"the reply holds {held}; {wanted}")
    outputs[0].beside = tuple(others[name] for name in beside)
    return outputs[0]


@dataclass(frozen=True, kw_only=True)
class ServerMetadata:
    """The name, version and extensions of a server."""

    name: str
    version: str
    extensions: tuple[str, ...] = ()


class Pending(Protocol):
    """A request that was sent and may not be answered yet."""

    def result(self) -> InferReply:
        """Waits for the reply, at most until the timeout given to `Transport.send`.

        Raises:
            CallError: the request failed; after the timeout, with DEADLINE_EXCEEDED.
        """

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Calls `callback` once, when `result` no longer waits or at once; from any thread."""

    def cancel(self) -> None:
        """Cancels the request; does nothing if it is done."""


@runtime_checkable
class Awaitable(Protocol):
    """The additional method of a transport for an event loop."""

    async def infer_async(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """Sends a batch and waits for the reply in the calling task. Cancelling the task cancels the request."""


class Transport(Protocol):
    """A connection to one server. Safe to share between threads. `timeout_s` is in seconds; None: no limit.

    Every method but `close` raises CallError and nothing else. All but `send` wait in the caller's thread.
    """

    @property
    def address(self) -> str:
        """The server's address, for messages."""

    def server_metadata(self, timeout_s: float | None) -> ServerMetadata:
        """The name, version and extensions of the server."""

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        """Whether the model is loaded; False if it is unknown."""

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        """The configuration of a loaded model."""

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        """All models that the server knows, loaded or not."""

    def statistics(self, timeout_s: float | None) -> Sequence[ModelStatistics]:
        """The counters of each version of each loaded model."""

    def send(self, request: InferRequest, timeout_s: float | None) -> Pending:
        """Sends a batch without waiting for the reply."""

    def infer(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """Sends a batch and waits for the reply."""

    def close(self) -> None:
        """Cancels all running requests (CANCELLED) and closes the connections. May be called again."""
