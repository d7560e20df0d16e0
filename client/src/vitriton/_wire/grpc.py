"""The gRPC transport: Triton's own protocol messages, from tritonclient."""

from __future__ import annotations

import functools
import re
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from vitriton._wire.address import Address
from vitriton._wire.channel import channel_options, channel_target
from vitriton._wire.connection import TLS, ConnectionSettings
from vitriton._wire.statistics import ModelStatistics, read_statistics
from vitriton._wire.transport import (
    CallError,
    Code,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatus,
    Pending,
    ServerMetadata,
    TensorSpec,
    make_reply,
)

T = TypeVar("T")

_CLOSE_S = 5.0
_RAISED = (grpc.FutureCancelledError, grpc.RpcError, ValueError)
# gRPC tries the addresses of a host in another order each time; the reason is the same for all.
_CONNECTING = re.compile(
    r"failed to connect to all addresses; last error: \w+: (?:ipv[46]:\S+: )?(?:Failed to connect to remote host: )?"
)
_BROKEN = ("Stream removed", "Received RST_STREAM", "RST_STREAM", "Failed parsing HTTP/2")

# The tag before the content: the number of the field, and the wire type of a length-prefixed value.
_RAW_INPUT_CONTENTS = bytes(
    [service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number << 3 | 2]
)


class GrpcTransport:
    """A gRPC channel to one server, or, in turn, to all servers behind a DNS name.

    Args:
        address: the server's address, with the scheme grpc:// or grpcs://.
        settings: the TLS settings, headers and channel options.

    Raises:
        ValueError: a TLS file is invalid.
    """

    def __init__(self, address: Address, settings: ConnectionSettings) -> None:
        self.address = str(address)
        self._settings = settings
        self._channel = _open(address, settings)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = infer_method(self._channel)

    def server_metadata(self, timeout_s: float | None) -> ServerMetadata:
        """See `Transport`."""
        reply = self._call(self._stub.ServerMetadata, service_pb2.ServerMetadataRequest(), timeout_s)
        return ServerMetadata(name=reply.name, version=reply.version, extensions=tuple(reply.extensions))

    def is_server_ready(self, timeout_s: float | None) -> bool:
        """Whether the server and all its models are ready. Only the launcher asks this, no client does."""
        return bool(self._call(self._stub.ServerReady, service_pb2.ServerReadyRequest(), timeout_s).ready)

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        """See `Transport`."""
        try:
            return bool(self._call(self._stub.ModelReady, service_pb2.ModelReadyRequest(name=model), timeout_s).ready)
        except CallError as exc:
            if exc.code is Code.NOT_FOUND:
                return False
            raise

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        """See `Transport`."""
        return read_config(
            self._call(self._stub.ModelConfig, service_pb2.ModelConfigRequest(name=model), timeout_s).config
        )

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        """See `Transport`."""
        index = self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(), timeout_s)
        return [
            ModelStatus(
                name=model.name,
                ready=model.state == "READY",
                state=model.state or "not loaded",
                reason=model.reason,
                version=model.version,
            )
            for model in index.models
        ]

    def statistics(self, timeout_s: float | None) -> Sequence[ModelStatistics]:
        """See `Transport`."""
        message = self._call(self._stub.ModelStatistics, service_pb2.ModelStatisticsRequest(), timeout_s)
        return read_statistics(json_format.MessageToDict(message, preserving_proto_field_name=True))

    def send(self, request: InferRequest, timeout_s: float | None) -> Pending:
        """See `Transport`."""
        message = write_request(request)
        metadata = self._metadata(request.headers)
        future = _translated(lambda: self._infer.future(message, timeout=timeout_s, metadata=metadata))
        return _GrpcPending(future, request.beside)

    def infer(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """See `Transport`. It avoids the two thread switches of `send`."""
        message = write_request(request)
        metadata = self._metadata(request.headers)
        try:
            reply = self._infer(message, timeout=timeout_s, metadata=metadata)
        except _RAISED as exc:
            raise to_error(exc) from exc
        return read_response(reply, request.beside)

    def close(self) -> None:
        """See `Transport`."""
        # On a thread and with a limit: gRPC waits for each of its calls. If an exception from a signal (Ctrl-C) comes
        # between the start of a call and the start of the thread that polls it, that call never ends.
        closing = threading.Thread(target=self._channel.close, name="vitriton-grpc-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _call(self, method: Any, message: Any, timeout_s: float | None) -> Any:
        metadata = self._metadata({})
        return _received(_translated(lambda: method(message, timeout=timeout_s, metadata=metadata)))

    def _metadata(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """The metadata of a call. A token function that fails fails the call; its token is never in a message."""
        if not (headers or self._settings.token or self._settings.headers):
            return []
        try:
            metadata = self._settings.request_headers(headers)
        except Exception as exc:  # the user's function
            raise CallError(Code.UNAUTHENTICATED, f"the token function failed: {exc!r}") from exc
        for name, value in metadata:
            if not value.isascii() or not value.isprintable():
                raise CallError(Code.UNAUTHENTICATED, f"the header {name} is not printable ASCII; check the token")
        return metadata


def channel_credentials(tls: TLS) -> Any:
    """The credentials for grpcs://.

    Raises:
        ValueError: a TLS file is invalid.
    """
    _check_content(tls)
    return grpc.ssl_channel_credentials(
        root_certificates=tls.read("ca_file"),
        private_key=tls.read("key_file"),
        certificate_chain=tls.read("cert_file"),
    )


def infer_method(channel: Any) -> Any:
    """The ModelInfer method of a channel, which takes the bytes of `write_request`."""
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        response_deserializer=service_pb2.ModelInferResponse.FromString,
        _registered_method=True,
    )


def write_request(request: InferRequest) -> bytes:
    """Serializes a ModelInferRequest message.

    protobuf writes all fields but the inputs: it would copy them three times, into the content, into the message and
    out of it. The fields of a message may come in any order, so the inputs are appended to the others.
    """
    outputs = request.output_name, *request.beside
    head = _head(request.model, request.input_name, request.datatype, request.shape, outputs)
    timeout_us = request.timeout_us()
    timeout = b""
    if timeout_us is not None:
        message = service_pb2.ModelInferRequest()
        message.parameters["timeout"].int64_param = timeout_us
        timeout = message.SerializeToString()
    content = request.content()
    byte_size = sum(map(len, content))
    return b"".join((head, timeout, _RAW_INPUT_CONTENTS, _varint(byte_size), *content))


def read_response(message: Any, beside: tuple[str, ...] = ()) -> InferReply:
    """Reads a ModelInferResponse message.

    Raises:
        CallError: the message does not hold the tensors that were requested.
    """
    message = _received(message)
    outputs, contents = message.outputs, message.raw_output_contents
    if len(outputs) != len(contents):
        raise CallError(Code.DATA_LOSS, f"the reply holds {len(outputs)} tensors and {len(contents)} contents")
    tensors = [
        InferReply(name=output.name, datatype=output.datatype, shape=tuple(output.shape), data=data)
        for output, data in zip(outputs, contents, strict=True)
    ]
    return make_reply(tensors, beside)


def read_config(message: Any) -> ModelConfig:
    """Reads a ModelConfig message."""
    return ModelConfig(
        name=message.name,
        max_batch_size=message.max_batch_size,
        inputs={tensor.name: _read_tensor(tensor) for tensor in message.input},
        outputs={tensor.name: _read_tensor(tensor) for tensor in message.output},
        # a map of protobuf has no order, and would make each pickle another one
        parameters={key: message.parameters[key].string_value for key in sorted(message.parameters)},
        steps=tuple(step.model_name for step in message.ensemble_scheduling.step),
        instances=sum(group.count or 1 for group in message.instance_group) or 1,
    )


def to_error(exc: Exception) -> CallError:
    """The CallError for an exception that gRPC raised."""
    if isinstance(exc, grpc.FutureCancelledError):
        return CallError(Code.CANCELLED, "canceled by this client")
    if isinstance(exc, grpc.RpcError):
        return _status(exc.code().name, exc.details() or "")
    return CallError(Code.CANCELLED, str(exc))  # a ValueError: "Cannot invoke RPC on closed channel!"


class _GrpcPending:
    def __init__(self, future: Any, beside: tuple[str, ...]) -> None:
        self._future = future
        self._beside = beside

    def result(self) -> InferReply:
        return read_response(_translated(self._future.result), self._beside)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        self._future.add_done_callback(lambda _: callback())

    def cancel(self) -> None:
        self._future.cancel()


def _open(address: Address, settings: ConnectionSettings) -> Any:
    target = channel_target(address)
    options = list(channel_options(address, settings).items())
    if not address.is_secure:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, channel_credentials(settings.tls), options=options)


def _check_content(tls: TLS) -> None:
    """Raises ValueError where gRPC would only say "Failed to create security handshaker", at every attempt."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(tls.ca_file)
    except ssl.SSLError as exc:
        raise ValueError(f"TLS: ca_file {tls.ca_file} holds no certificate in PEM: {exc}") from exc
    try:
        if tls.cert_file is not None and tls.key_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")  # never ask the terminal
    except (ssl.SSLError, ValueError) as exc:
        raise ValueError(
            f"TLS: cert_file {tls.cert_file} and key_file {tls.key_file} must be a certificate and its private key in "
            f"PEM, without a password: {exc}"
        ) from exc


@functools.lru_cache(maxsize=256)
def _head(model: str, input_name: str, datatype: str, shape: tuple[int, ...], outputs: tuple[str, ...]) -> bytes:
    """The fields that many requests have in common."""
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name=input_name, datatype=datatype, shape=shape)
    for name in outputs:
        message.outputs.add(name=name)
    return bytes(message.SerializeToString())


def _varint(number: int) -> bytes:
    """A protobuf varint: 7 bits a byte, lowest first; all bytes but the last have the highest bit set."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _received(message: Any) -> Any:
    """The reply. gRPC calls status OK a success even if no readable message came with it."""
    if message is None:
        raise CallError(Code.DATA_LOSS, "the reply holds no message, or one that cannot be read")
    return message


def _read_tensor(tensor: Any) -> TensorSpec:
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return TensorSpec(datatype="BYTES" if datatype == "STRING" else datatype, shape=tuple(tensor.dims))


def _translated(call: Callable[[], T]) -> T:
    """Runs `call`, and turns every error of gRPC into CallError."""
    try:
        return call()
    except _RAISED as exc:
        raise to_error(exc) from exc


def _status(name: str, message: str) -> CallError:
    """The CallError for the status of a failed call.

    When a connection breaks, or a gateway resets a stream, gRPC makes up a status (UNKNOWN, INTERNAL, CANCELLED,
    PERMISSION_DENIED, ...), and only the text shows that no server sent it.
    """
    message = _CONNECTING.sub("", message)
    if name != Code.DEADLINE_EXCEEDED.value and message.startswith(_BROKEN):
        return CallError(Code.UNAVAILABLE, f"{message} ({name})")
    return CallError(Code(name), message)
