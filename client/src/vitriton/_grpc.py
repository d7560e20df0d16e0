"""The gRPC transport: Triton's own protocol messages, from tritonclient."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from vitriton._address import Address
from vitriton._options import MAX_MESSAGE_BYTES
from vitriton._transport import (
    CallError,
    Code,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatus,
    Pending,
    TensorSpec,
)

T = TypeVar("T")

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # gRPC's own default is 4 MB
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # An error that names many images is longer than the default of 8 KiB, above which gRPC throws it away (at random up
    # to 16 KiB) and reports RESOURCE_EXHAUSTED in its place.
    ("grpc.max_metadata_size", 256 * 1024),
    # The default backs off to 2 minutes, so that a server long back would still be called unavailable.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Connections of its own: closing a client closes them, and no other client's backoff counts here.
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcTransport:
    """One channel to one server."""

    def __init__(self, address: Address) -> None:
        self.address = str(address)
        self._channel = grpc.insecure_channel(address.target, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        """See `Transport`."""
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            return bool(_translated(lambda: self._stub.ModelReady(request, timeout=timeout_s)).ready)
        except CallError as exc:
            if exc.code is Code.NOT_FOUND:
                return False
            raise

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        """See `Transport`."""
        request = service_pb2.ModelConfigRequest(name=model)
        return read_config(_translated(lambda: self._stub.ModelConfig(request, timeout=timeout_s)).config)

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        """See `Transport`."""
        request = service_pb2.RepositoryIndexRequest()
        index = _translated(lambda: self._stub.RepositoryIndex(request, timeout=timeout_s))
        return [
            ModelStatus(
                name=model.name,
                ready=model.state == "READY",
                state=model.state or "not loaded",
                reason=model.reason,
            )
            for model in index.models
        ]

    def send(self, request: InferRequest, timeout_s: float | None) -> Pending:
        """See `Transport`."""
        message = write_request(request)
        return _GrpcPending(_translated(lambda: self._stub.ModelInfer.future(message, timeout=timeout_s)))

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()


class _GrpcPending:
    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self) -> InferReply:
        return read_response(_translated(self._future.result))

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        self._future.add_done_callback(lambda _: callback())

    def cancel(self) -> None:
        self._future.cancel()


def write_request(request: InferRequest) -> Any:
    """The ModelInferRequest message."""
    message = service_pb2.ModelInferRequest(model_name=request.model)
    message.inputs.add(name=request.input_name, datatype="BYTES", shape=[len(request.images), 1])
    message.outputs.add(name=request.output_name)
    message.raw_input_contents.append(pack_bytes(request.images))
    if request.timeout_s is not None:
        # 0 would mean "no timeout" to Triton
        message.parameters["timeout"].int64_param = max(1, math.ceil(request.timeout_s * 1e6))
    return message


def pack_bytes(items: Sequence[bytes]) -> bytes:
    """A BYTES tensor as Triton wants it: each element after its length, 4 bytes little-endian."""
    parts: list[bytes] = []
    for item in items:
        parts += (struct.pack("<I", len(item)), item)
    return b"".join(parts)


def read_response(message: Any) -> InferReply:
    """Reads a ModelInferResponse message.

    Raises:
        CallError: it does not hold exactly one tensor.
    """
    if len(message.outputs) != 1 or len(message.raw_output_contents) != 1:
        raise CallError(
            Code.DATA_LOSS,
            f"the reply holds {len(message.outputs)} tensors and {len(message.raw_output_contents)} contents; one was "
            "asked for",
        )
    output = message.outputs[0]
    return InferReply(
        name=output.name,
        datatype=output.datatype,
        shape=tuple(output.shape),
        data=message.raw_output_contents[0],
    )


def read_config(message: Any) -> ModelConfig:
    """Reads a ModelConfig message."""
    return ModelConfig(
        name=message.name,
        max_batch_size=message.max_batch_size,
        inputs={tensor.name: _read_tensor(tensor) for tensor in message.input},
        outputs={tensor.name: _read_tensor(tensor) for tensor in message.output},
        parameters={key: value.string_value for key, value in message.parameters.items()},
    )


def _read_tensor(tensor: Any) -> TensorSpec:
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return TensorSpec(datatype="BYTES" if datatype == "STRING" else datatype, shape=tuple(tensor.dims))


def _translated(call: Callable[[], T]) -> T:
    """Runs `call`, with everything that gRPC raises turned into CallError."""
    try:
        return call()
    except grpc.FutureCancelledError as exc:
        raise CallError(Code.CANCELLED, "cancelled by this client") from exc
    except grpc.RpcError as exc:
        raise CallError(Code(exc.code().name), exc.details() or "") from exc
    except ValueError as exc:  # "Cannot invoke RPC on closed channel!"
        raise CallError(Code.CANCELLED, str(exc)) from exc
