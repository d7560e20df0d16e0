"""The meaning of a status. The code decides; Triton's text counts only where one code has several meanings."""

from __future__ import annotations

from enum import Enum, auto

from vitriton._wire.transport import Code


class Failure(Enum):
    """The kinds of failures, from the caller's point of view."""

    UNREACHABLE = auto()  # no answer, or one that is not Triton's
    NOT_SERVING = auto()  # a Triton that is starting or stopping
    MODEL_DIED = auto()  # Triton answers, but the model's process does not
    DEADLINE = auto()
    QUEUE_FULL = auto()
    QUEUE_TIMEOUT = auto()
    RATE_LIMITED = auto()  # by a gateway, which did not forward the request
    UNKNOWN_MODEL = auto()
    NOT_READY = auto()
    BAD_REQUEST = auto()  # bad images, or tensors that the model does not take
    TOO_LARGE = auto()
    RESTRICTED = auto()
    CANCELLED = auto()
    OTHER = auto()


# The first row with the same code and a fragment of the message decides. The texts are from Triton's core and server
# (scheduler_utils.cc, dynamic_batch_scheduler.cc, model_lifecycle.cc, model_repository_manager.cc, infer_handler.cc,
# python_be.cc); ensembles and newer versions add text around them.
_TABLE: tuple[tuple[Code, str, Failure], ...] = (
    (Code.UNAVAILABLE, "Exceeds maximum queue size", Failure.QUEUE_FULL),
    (Code.UNAVAILABLE, "Request timeout expired", Failure.QUEUE_TIMEOUT),
    (Code.UNAVAILABLE, "Too many requests", Failure.RATE_LIMITED),  # docker/gateway
    (Code.UNAVAILABLE, "the server answered 429", Failure.RATE_LIMITED),  # kserve.read_error
    (Code.UNAVAILABLE, "Received http2 header with status: 429", Failure.RATE_LIMITED),  # grpcio
    (Code.UNAVAILABLE, "not at ready state", Failure.NOT_READY),
    (Code.UNAVAILABLE, "protocol is restricted", Failure.RESTRICTED),
    (Code.UNAVAILABLE, "Server not ready", Failure.NOT_SERVING),
    (Code.UNAVAILABLE, "Server exiting", Failure.NOT_SERVING),
    (Code.UNAVAILABLE, "has stopped accepting new", Failure.NOT_SERVING),
    (Code.UNAVAILABLE, "", Failure.UNREACHABLE),
    (Code.UNIMPLEMENTED, "", Failure.UNREACHABLE),
    (Code.INTERNAL, "is not healthy", Failure.MODEL_DIED),
    (Code.INTERNAL, "Stub process", Failure.MODEL_DIED),
    (Code.DEADLINE_EXCEEDED, "", Failure.DEADLINE),
    (Code.NOT_FOUND, "has no available versions", Failure.NOT_READY),
    (Code.NOT_FOUND, "", Failure.UNKNOWN_MODEL),
    (Code.INVALID_ARGUMENT, "Request for unknown model", Failure.UNKNOWN_MODEL),  # with model namespacing
    (Code.INVALID_ARGUMENT, "", Failure.BAD_REQUEST),
    (Code.RESOURCE_EXHAUSTED, "larger than max", Failure.TOO_LARGE),
    (Code.RESOURCE_EXHAUSTED, "larger than the gateway allows", Failure.TOO_LARGE),  # docker/gateway
    (Code.PERMISSION_DENIED, "", Failure.RESTRICTED),
    (Code.UNAUTHENTICATED, "", Failure.RESTRICTED),
    (Code.CANCELLED, "", Failure.CANCELLED),
)


def classify(code: Code, message: str) -> Failure:
    """The kind of failure of a failed call."""
    for line_code, fragment, failure in _TABLE:
        if code == line_code and fragment in message:
            return failure
    return Failure.OTHER
