"""What a client needs from the wire, whatever the wire is: gRPC today, HTTP and fakes by the same protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


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


class CallError(Exception):
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
    """What a client reads of a model's configuration."""

    name: str
    max_batch_size: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """A line of the server's repository index."""

    name: str
    ready: bool
    state: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """One batch for one model.

    Attributes:
        model: as the server knows it.
        input_name: of the BYTES tensor, whose shape is (len(images), 1).
        images: encoded.
        output_name: the only tensor that is asked for.
        timeout_s: after which the server may drop it from its queue, in seconds; None is the server's default.
    """

    model: str
    input_name: str
    images: Sequence[bytes]
    output_name: str
    timeout_s: float | None


@dataclass(frozen=True, kw_only=True)
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


class Transport(Protocol):
    """One server. Safe to share between threads. `timeout_s` is in seconds, None is no limit.

    Every method but `close` raises CallError, and only that.
    """

    @property
    def address(self) -> str:
        """For messages."""

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        """Whether the model is loaded; False also where it is unknown."""

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        """The configuration of a loaded model."""

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        """All models that the server knows, loaded or not."""

    def send(self, request: InferRequest, timeout_s: float | None) -> Pending:
        """Sends a batch, and does not wait for the reply."""

    def close(self) -> None:
        """Ends everything that is running (CANCELLED) and releases the connection. May be called again."""
