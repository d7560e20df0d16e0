"""Status codes and Triton's own texts, as a server of version 2.51 sent them, and what they become."""

from dataclasses import replace
from pathlib import Path

import pytest
from vitriton import (
    AccessDenied,
    ContractMismatch,
    DeadlineExceeded,
    InferenceFailed,
    InvalidImage,
    ModelNotFound,
    ModelNotReady,
    ServerBusy,
    Unavailable,
)
from vitriton._served.failures import Call, to_error
from vitriton._wire.status import Failure, classify
from vitriton.testing import CallError, Code

TABLE = [
    (Code.UNAVAILABLE, "Connection refused", Failure.UNREACHABLE, Unavailable),
    (Code.UNAVAILABLE, "Socket closed", Failure.UNREACHABLE, Unavailable),
    (Code.UNIMPLEMENTED, "Received http2 header with status: 404", Failure.UNREACHABLE, Unavailable),
    (Code.UNAVAILABLE, "Server not ready", Failure.NOT_SERVING, Unavailable),
    (
        Code.UNAVAILABLE,
        "GRPC server is shutting down and has stopped accepting new requests.",
        Failure.NOT_SERVING,
        Unavailable,
    ),
    (Code.INTERNAL, "Stub process 'tiny_0_0' is not healthy.", Failure.MODEL_DIED, Unavailable),
    (Code.INTERNAL, "Stub process is unhealthy and it will be restarted.", Failure.MODEL_DIED, Unavailable),
    (Code.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size", Failure.QUEUE_FULL, ServerBusy),
    (
        Code.UNAVAILABLE,
        "in ensemble 'm_pooled', [request id: 1] Exceeds maximum queue size",
        Failure.QUEUE_FULL,
        ServerBusy,
    ),
    (Code.UNAVAILABLE, "Request timeout expired", Failure.QUEUE_TIMEOUT, ServerBusy),
    (
        Code.UNAVAILABLE,
        "Too many requests with this token (the gateway allows 500 a second)",
        Failure.RATE_LIMITED,
        ServerBusy,
    ),
    (Code.UNAVAILABLE, "Received http2 header with status: 429", Failure.RATE_LIMITED, ServerBusy),
    (
        Code.UNAVAILABLE,
        "the server answered 429 Too Many Requests, which does not come from Triton's inference API",
        Failure.RATE_LIMITED,
        ServerBusy,
    ),
    (Code.UNAVAILABLE, "'m' version 1 is not at ready state", Failure.NOT_READY, ModelNotReady),
    (
        Code.NOT_FOUND,
        "Request for unknown model: 'm' has no available versions",
        Failure.NOT_READY,
        ModelNotReady,
    ),
    (Code.NOT_FOUND, "Request for unknown model: 'm' is not found", Failure.UNKNOWN_MODEL, ModelNotFound),
    (Code.INVALID_ARGUMENT, "Request for unknown model: 'm' is not found", Failure.UNKNOWN_MODEL, ModelNotFound),
    (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Failure.DEADLINE, DeadlineExceeded),
    (Code.INVALID_ARGUMENT, 'cannot use 1 of 2 images: [[1, "empty"]]', Failure.BAD_REQUEST, InvalidImage),
    (
        Code.INVALID_ARGUMENT,
        "inference request batch-size must be <= 8 for 'm'",
        Failure.BAD_REQUEST,
        ContractMismatch,
    ),
    (
        Code.RESOURCE_EXHAUSTED,
        "CLIENT: Sent message larger than max (5 vs. 4)",
        Failure.TOO_LARGE,
        InferenceFailed,
    ),
    (
        Code.UNAVAILABLE,
        "This protocol is restricted, expecting header 'triton-grpc-protocol-x'",
        Failure.RESTRICTED,
        AccessDenied,
    ),
    (Code.PERMISSION_DENIED, "no", Failure.RESTRICTED, AccessDenied),
    (Code.UNAUTHENTICATED, "no", Failure.RESTRICTED, AccessDenied),
    (Code.CANCELLED, "Channel closed!", Failure.CANCELLED, InferenceFailed),
    (Code.INTERNAL, "onnx runtime error 2: {bad} shape", Failure.OTHER, InferenceFailed),
    (Code.UNKNOWN, "", Failure.OTHER, InferenceFailed),
]
CALL = Call(
    address="grpc://h:8001",
    model="m_pooled",
    timeout_s=5.0,
    expired=False,
    indices=[8, 9],
    sources=["a.jpg", "b.jpg"],
    total=10,
)


GATEWAY = Path(__file__).parents[2] / "docker" / "gateway" / "nginx.conf.template"


def test_the_texts_of_the_gateway():
    """The client tells these refusals by their texts, which are the gateway's own, over HTTP and over gRPC."""
    known = {
        "larger than the gateway": (Code.RESOURCE_EXHAUSTED, Failure.TOO_LARGE),
        "Too many requests": (Code.UNAVAILABLE, Failure.RATE_LIMITED),
    }
    for part, (code, failure) in known.items():
        texts = [line.split('"')[-2] for line in GATEWAY.read_text().splitlines() if part in line]
        assert [classify(code, text) for text in texts] == [failure] * 2


@pytest.mark.parametrize(("code", "message", "failure", "error"), TABLE)
def test_table(code, message, failure, error):
    """Each status becomes one failure and one error, which carries address, model and status."""
    assert classify(code, message) is failure
    raised = to_error(CallError(code, message), CALL)
    assert type(raised) is error
    assert (raised.address, raised.model, raised.status) == ("grpc://h:8001", "m_pooled", code.value)
    if error is not InvalidImage:
        assert "grpc://h:8001" in str(raised) or "model m " in str(raised)
        assert "m_pooled" not in str(raised) or "m_pooled" in message  # the name that the user gave


def test_queue_timeout_at_the_deadline():
    """A request that the server dropped because the caller's time is over is no ServerBusy."""
    late = Call(address="a", model="m", timeout_s=5.0, expired=True)
    assert type(to_error(CallError(Code.UNAVAILABLE, "Request timeout expired"), late)) is DeadlineExceeded


def test_indices_are_the_callers():
    """Positions in the request become indices in the caller's list."""
    error = to_error(CallError(Code.INVALID_ARGUMENT, 'cannot use 1 of 2 images: [[1, "empty"]]'), CALL)
    assert error.errors == ((9, "b.jpg", "empty", "other"),)
    assert str(error) == "image 9 of 10 (b.jpg): empty"


def test_indices_out_of_the_request():
    """A server that names an image which was not sent is not believed."""
    failed = CallError(Code.INVALID_ARGUMENT, 'cannot use 1 of 2 images: [[2, "empty"]]')
    assert type(to_error(failed, CALL)) is ContractMismatch


@pytest.mark.parametrize(
    ("address", "message", "says"),
    [
        ("grpcs://h:1", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED: unable to get", "TLS(ca_file=...)"),
        ("https://h:1", "the server's certificate is refused: self-signed", "TLS(ca_file=...)"),
        ("grpcs://h:1", "Ssl handshake failed: WRONG_VERSION_NUMBER", "with TLS; for a port without TLS, use grpc://"),
        ("https://h:1", "UNEXPECTED_EOF_WHILE_READING", "with TLS; for a port without TLS, use http://"),
        ("grpc://h:1", "failed to connect: Expected SETTINGS frame as the first frame", "use grpcs://"),
        ("grpc://h:1", "connection refused", "8000 is HTTP)"),
    ],
)
def test_a_handshake_that_fails_says_what_to_change(address, message, says):
    """A certificate that is not trusted, and TLS on one side alone."""
    error = to_error(CallError(Code.UNAVAILABLE, message), replace(CALL, address=address))
    assert type(error) is Unavailable
    assert says in str(error)


@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.INTERNAL, Code.CANCELLED])
def test_a_question_about_no_model_names_none(code):
    """What a server serves is asked before there is a model."""
    error = to_error(CallError(code, "no"), replace(CALL, model=""))
    assert "model" not in str(error)
    assert "  " not in str(error)
