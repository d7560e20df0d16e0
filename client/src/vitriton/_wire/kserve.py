"""Triton's HTTP messages: KServe's v2 protocol with Triton's extension for binary tensors.

Sources: docs/protocol/ of the Triton server, and src/http_server.cc.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any
from urllib.parse import quote

from vitriton._wire.statistics import ModelStatistics, read_statistics
from vitriton._wire.transport import (
    CallError,
    Code,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatus,
    ServerMetadata,
    TensorSpec,
    make_reply,
)

# JSON describes tensors and does not hold them: no valid response has more than this.
MAX_JSON_BYTES = 16 * 2**20
HEADER_LENGTH = "inference-header-content-length"  # the length of the JSON before the tensor

_NOT_READY = "Model version not ready"
_SHOWN = 200  # characters of an invalid response in a message

# The inverse of HttpCodeFromError in http_server.cc, which also maps UNKNOWN, ALREADY_EXISTS and CANCELLED to 400.
_TRITON = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
}
# gRPC's mapping of HTTP statuses: doc/http-grpc-status-mapping.md of grpc. Below the line are our additions, which
# gRPC maps to UNKNOWN.
_GATEWAY = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
    # --
    408: Code.UNAVAILABLE,  # the server gave up an idle connection
    413: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
}


def model_path(model: str, verb: str) -> str:
    """The path of an action (ready, config, infer) of a model."""
    return f"/v2/models/{quote(model, safe='')}/{verb}"


def write_infer(request: InferRequest, content_bytes: int, timeout_us: int | None) -> bytes:
    """Writes the JSON that precedes the tensor's `content_bytes`."""
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": request.input_name,
                "shape": request.shape,
                "datatype": request.datatype,
                "parameters": {"binary_data_size": content_bytes},
            }
        ],
        "outputs": [
            {"name": name, "parameters": {"binary_data": True}} for name in (request.output_name, *request.beside)
        ],
    }
    if timeout_us is not None:
        document["parameters"] = {"timeout": timeout_us}
    return json.dumps(document).encode()


def read_infer(head_length: str | None, head: bytes, data: bytes, beside: Sequence[str] = ()) -> InferReply:
    """Reads the response to an inference request.

    Args:
        head_length: the value of the response's header `HEADER_LENGTH`.
        head: the first `head_length` bytes of the body, or the whole body.
        data: the remaining bytes of the body.
        beside: the names of the tensors that were requested beside the output.

    Raises:
        CallError: (DATA_LOSS) the response does not hold the requested tensors, each of the stated size.
    """
    if head_length is not None and head_length != str(len(head)):
        raise _nonsense(f"{HEADER_LENGTH} is {head_length[:_SHOWN]!r}, of {len(head) + len(data)} bytes")
    match _parse(head):
        case {"outputs": [*outputs]} if outputs:
            described = [_read_output(output, head) for output in outputs]
        case _:
            raise _nonsense(f"the reply does not describe a tensor: {_shown(head)}")
    names, sizes = ", ".join(tensor.name for tensor, _ in described), [size for _, size in described]
    if sum(sizes) != len(data):
        raise _nonsense(f"the reply should have {sum(sizes)} bytes of {names}, and has {len(data)}")
    ends = accumulate(sizes)
    for (tensor, size), end in zip(described, ends, strict=True):
        tensor.data = data[end - size : end]
    return make_reply([tensor for tensor, _ in described], beside)


def read_metadata(body: bytes) -> ServerMetadata:
    """Reads the response of /v2."""
    match _parse(body):
        case {"name": str(name), "version": str(version), **more}:
            extensions = more.get("extensions", [])
            if isinstance(extensions, list) and all(isinstance(extension, str) for extension in extensions):
                return ServerMetadata(name=name, version=version, extensions=tuple(extensions))
    raise _nonsense(f"the server does not say what it is: {_shown(body)}")


def read_config(body: bytes) -> ModelConfig:
    """Reads the response of /v2/models/NAME/config."""
    document = _parse(body)
    try:
        return ModelConfig(
            name=_text(document["name"]),
            max_batch_size=int(document.get("max_batch_size", 0)),
            inputs={_text(tensor["name"]): _tensor(tensor) for tensor in document.get("input", ())},
            outputs={_text(tensor["name"]): _tensor(tensor) for tensor in document.get("output", ())},
            parameters={
                key: _text(value.get("string_value", ""))
                for key, value in sorted(document.get("parameters", {}).items())
            },
            steps=tuple(_text(step["model_name"]) for step in document.get("ensemble_scheduling", {}).get("step", ())),
            instances=sum(int(group.get("count", 1)) for group in document.get("instance_group", ())) or 1,
        )
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise _nonsense(f"the answer is not a model's configuration: {_shown(body)}") from exc


def read_index(body: bytes) -> list[ModelStatus]:
    """Reads the response of /v2/repository/index."""
    document = _parse(body)
    try:
        return [
            ModelStatus(
                name=_text(model["name"]),
                ready=model.get("state") == "READY",
                state=_text(model.get("state", "")) or "not loaded",
                reason=_text(model.get("reason", "")),
                version=_text(model.get("version", "")),
            )
            for model in _listed(document)
        ]
    except (TypeError, KeyError, AttributeError) as exc:
        raise _nonsense(f"the answer is not a list of models: {_shown(body)}") from exc


def read_model_statistics(body: bytes) -> list[ModelStatistics]:
    """Reads the response of /v2/models/stats."""
    document = _parse(body)
    try:
        return read_statistics(document)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise _nonsense(f"the answer is not a list of statistics: {_shown(body)}") from exc


def read_error(status: int, reason: str, body: bytes) -> CallError:
    """The error for a response with another status than 200, with gRPC's codes.

    Triton gives its reason as JSON; gateways and other programs use other forms.
    """
    message = _error_text(body)
    if message is None or message == "Not Found":  # Triton's response for an unknown path
        answer = f"the server answered {status} {printable(reason)}".rstrip()
        if status == 413:
            return CallError(
                Code.RESOURCE_EXHAUSTED, f"{answer}: the request is larger than max of a gateway before it"
            )
        shown = f": {_shown(body)}" if body else ""
        return CallError(
            _GATEWAY.get(status, Code.UNKNOWN), f"{answer}, which does not come from Triton's inference API{shown}"
        )
    return CallError(_TRITON.get(status) or _GATEWAY.get(status, Code.UNKNOWN), message)


def is_not_ready(error: CallError) -> bool:
    """Whether the error is Triton's "not ready" from /v2/models/NAME/ready."""
    return error.code is Code.NOT_FOUND or (error.code is Code.INVALID_ARGUMENT and error.message == _NOT_READY)


def printable(text: str, limit: int = _SHOWN) -> str:
    """The start of any text, printable and on one line."""
    line = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    line = " ".join(line.split())
    return line if len(text) <= limit else f"{line}..."


def _parse(body: bytes) -> Any:
    if len(body) > MAX_JSON_BYTES:
        raise _nonsense(f"the answer has {len(body)} bytes of JSON, over the limit of {MAX_JSON_BYTES}")
    try:
        return json.loads(body)
    # UnicodeDecodeError is a ValueError; deeply nested brackets raise RecursionError
    except (ValueError, RecursionError) as exc:
        # Another program's port, or a gateway's page: no Triton is there.
        raise CallError(Code.UNIMPLEMENTED, f"the answer is not JSON: {_shown(body)}") from exc


def _read_output(output: Any, head: bytes) -> tuple[InferReply, int]:
    """A tensor of a reply, without its data, and the size of that in bytes."""
    match output:
        case {"name": str(name), "datatype": str(datatype), "shape": [*shape], **more}:
            pass
        case _:
            raise _nonsense(f"the reply does not describe a tensor: {_shown(head)}")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _nonsense(f"the shape of {name} is {str(shape)[:_SHOWN]}")
    parameters = more.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if type(size) is not int or size < 0:
        raise _nonsense(f"the reply says {str(size)[:_SHOWN]} for the number of bytes of {name}")
    return InferReply(name=name, datatype=datatype, shape=tuple(shape), data=b""), size


def _error_text(body: bytes) -> str | None:
    try:
        message = _parse(body)["error"]
    except (CallError, TypeError, KeyError):
        return None
    return message if isinstance(message, str) else None


def _tensor(tensor: Mapping[str, Any]) -> TensorSpec:
    datatype = _text(tensor["data_type"]).removeprefix("TYPE_")
    return TensorSpec(
        datatype="BYTES" if datatype == "STRING" else datatype, shape=tuple(int(size) for size in tensor["dims"])
    )


def _listed(document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise TypeError
    return document


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _nonsense(message: str) -> CallError:
    return CallError(Code.DATA_LOSS, printable(message, 2 * _SHOWN))


def _shown(body: bytes) -> str:
    return repr(printable(body[: _SHOWN + 1].decode("utf-8", "replace")))
