"""What a client needs from the wire, whatever the wire is: gRPC, HTTP or a fake."""

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
    """Status codes by gRPC's names, which HTTP's are mapped to."""

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
    """A transport's only error; the client turns it into the one that the user sees.

    Attributes:
        code: the status.
        message: the server's or the transport's text.
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
    """What is read of a model's configuration.

    Attributes:
        name: the name of the model.
        max_batch_size: the most images in a request; 0 where there is no batch.
        inputs: the tensors that it takes, by name.
        outputs: the tensors that it returns, by name.
        parameters: what the export wrote into it.
        steps: the names of the models that an ensemble consists of, in the order of the work.
        instances: how many of it work at the same time.
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
        ready: whether it answers requests.
        state: Triton's word for its state.
        reason: why it is not ready; empty if it is, or if the server does not say.
        version: the version that the line is about; empty where none was loaded.
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
        model: as the server knows it.
        input_name: of the tensor that is sent.
        datatype: of that tensor: BYTES, or UINT8.
        item_shape: its shape without the batch: (1,), or (H, W, 3).
        images: one for each image: encoded files for BYTES, raw row-major pixels for UINT8.
        output_name: the only tensor that is asked for.
        timeout_s: after which the server may drop it from its queue, in seconds; None is the server's default.
        headers: that go with this request alone (trace context), names in lower case.
    """

    model: str
    input_name: str
    images: Sequence[bytes]
    output_name: str
    timeout_s: float | None
    datatype: str = "BYTES"
    item_shape: tuple[int, ...] = (1,)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that is sent, with the batch."""
        return (len(self.images), *self.item_shape)

    def content(self) -> Sequence[bytes]:
        """The tensor as it goes over the wire, in pieces: row-major, an element of BYTES after its length (uint32)."""
        if self.datatype != "BYTES":
            return self.images
        pieces: list[bytes] = []
        for image in self.images:
            pieces += (struct.pack("<I", len(image)), image)
        return pieces

    def timeout_us(self) -> int | None:
        """`timeout_s` as Triton's request parameter `timeout` wants it; at least 1, as 0 would mean no timeout."""
        return None if self.timeout_s is None else max(1, math.ceil(self.timeout_s * 1e6))


@dataclass(kw_only=True, slots=True)
class InferReply:
    """One tensor, as it came.

    Attributes:
        name: of the tensor.
        datatype: Triton's name of it.
        shape: with the batch.
        data: little-endian, row-major.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, kw_only=True)
class ServerMetadata:
    """What a server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...] = ()


class Pending(Protocol):
    """A request that is with the server."""

    def result(self) -> InferReply:
        """Waits for the reply, at most until the time given to `Transport.send` is over.

        Raises:
            CallError: with DEADLINE_EXCEEDED when it is over.
        """

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Calls `callback` once when `result` would no longer wait; at once if so already; from any thread."""

    def cancel(self) -> None:
        """Gives it up; does nothing when it is done."""


@runtime_checkable
class Awaitable(Protocol):
    """What a transport can have beside `Transport`, for the event loop."""

    async def infer_async(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """As `Transport.infer`; what waits is the calling task. Cancelling that cancels the request."""


class Transport(Protocol):
    """The way to one server. Safe to share between threads. `timeout_s` is in seconds, None is no limit.

    Every method but `close` raises CallError, and only that. All but `send` wait for the answer in the caller's thread.
    """

    @property
    def address(self) -> str:
        """For messages."""

    def server_metadata(self, timeout_s: float | None) -> ServerMetadata:
        """What the server is."""

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        """Whether the model is loaded; False also where it is unknown."""

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        """The configuration of a loaded model."""

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        """All models that the server knows, loaded or not."""

    def statistics(self, timeout_s: float | None) -> Sequence[ModelStatistics]:
        """What each version of each loaded model has counted."""

    def send(self, request: InferRequest, timeout_s: float | None) -> Pending:
        """Sends a batch, and does not wait for the reply."""

    def infer(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """Sends a batch, and waits for the reply."""

    def close(self) -> None:
        """Ends everything that is running (CANCELLED) and releases the connections. May be called again."""
