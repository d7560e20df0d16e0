"""The error that the user sees, for a transport's failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vitriton._deadline import Deadline
from vitriton._errors import (
    AccessDenied,
    ClientError,
    ContractMismatch,
    DeadlineExceeded,
    InferenceFailed,
    InputProblem,
    InvalidImage,
    InvalidInput,
    InvalidText,
    ModelNotFound,
    ModelNotReady,
    ServerBusy,
    Unavailable,
)
from vitriton._repository import names
from vitriton._served.index import explain_not_ready, served_models
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, ModelStatus

INVALID: Mapping[names.Tower, type[InvalidInput]] = {"image": InvalidImage, "text": InvalidText}


@dataclass(frozen=True, kw_only=True)
class Call:
    """The call that failed.

    Attributes:
        address: the server's address.
        model: the name of the model on the server; empty if the call was about no model.
        timeout_s: the call's time limit, in seconds; None means no limit.
        expired: whether that time is over.
        renewed: whether an answer had renewed that time.
        attempts: the number of attempts.
        tower: the tower of the model, which is also the noun for the inputs.
        indices: the indices of the request's inputs in the caller's input.
        sources: the names of the request's inputs.
        total: the number of inputs in the call; None if it is unknown.
    """

    address: str
    model: str
    timeout_s: float | None
    expired: bool
    renewed: bool = False
    attempts: int = 1
    tower: names.Tower = "image"
    indices: Sequence[int] = ()
    sources: Sequence[str] = ()
    total: int | None = None


def to_error(failed: CallError, call: Call) -> ClientError:
    """The most specific error for a failed call; raise it `from failed`."""
    failure, name = classify(failed.code, failed.message), names.given_name(call.model)
    context: dict[str, Any] = {
        "address": call.address,
        "model": call.model,
        "status": failed.code.value,
        "attempts": call.attempts,
    }
    if failure is Failure.BAD_REQUEST:
        return _invalid_input(failed, call) or ContractMismatch(
            f"model {name} on the server at {call.address} refuses the request: {failed.message}",
            **context,
        )
    if failure is Failure.DEADLINE or (failure is Failure.QUEUE_TIMEOUT and call.expired):
        return deadline_exceeded(call, status=failed.code.value)
    if failure is Failure.UNREACHABLE:
        return Unavailable(
            f"no Triton answers at {call.address} ({failed.message}); {_advice(call.address, failed.message)}",
            **context,
        )
    if failure is Failure.NOT_SERVING:
        return Unavailable(
            f"the server at {call.address} is starting or stopping ({failed.message}); try again later", **context
        )
    if failure is Failure.MODEL_DIED:
        return Unavailable(
            f"the process of model {name} on the server at {call.address} has died ({failed.message}); "
            "restart the server",
            **context,
        )
    if failure in (Failure.QUEUE_FULL, Failure.QUEUE_TIMEOUT, Failure.RATE_LIMITED):
        return ServerBusy(
            f"the server at {call.address} is busy with model {name} ({failed.message}); try again later, "
            "or send less at a time",
            **context,
        )
    if failure is Failure.UNKNOWN_MODEL:
        return ModelNotFound(f"the server at {call.address} has no model {name}: {failed.message}", **context)
    if failure is Failure.NOT_READY:
        return ModelNotReady(f"the server at {call.address} is not ready for model {name}: {failed.message}", **context)
    local = failed.message.startswith(("the token function failed", "the header "))
    hints = _HINTS if call.model else _SERVER_HINTS
    hint = (_NOT_SENT if local else hints.get(failure, hints[None])).format(**context | {"model": name})
    kind = AccessDenied if failure is Failure.RESTRICTED else InferenceFailed
    return kind(f"{hint}: {failed.message}", **context)


def port_hint(address: str) -> str:
    """The port of Triton that the address should have."""
    if address.startswith("http"):
        return "HTTP port (8000 by default; 8001 is gRPC)"
    return "gRPC port (8001 by default; 8000 is HTTP)"


def silence(address: str, waited_s: float | None) -> str:
    """The text for a server that was asked what it serves, and did not answer."""
    time = "" if waited_s is None else f" in {waited_s:.3g} s"
    return (
        f"the server at {address} did not answer{time}; check that it runs, that this is its {port_hint(address)}, and "
        "that no firewall blocks it"
    )


def after_attempts(error: ClientError, attempts: int, deadline: Deadline) -> ClientError:
    """The error of the last attempt when there is no time for another: the same error, whose text now says that."""
    within = "" if deadline.timeout_s is None else f" in {deadline.timeout_s:g} s (timeout_s)"
    if deadline.renewed:
        within = f"; no other request was answered in the last {deadline.timeout_s:g} s (timeout_s)"
    error.args = (f"{error}; tried {attempts} {'time' if attempts == 1 else 'times'}{within}",)
    error.attempts = attempts
    return error


def is_down(address: str, reason: object, deadline: Deadline | None, now_s: float) -> str:
    """The warning for a server that fails; the error that is raised at the end has the advice.

    Args:
        address: the server's address.
        reason: the failure. Of an `Unavailable`, the transport's own text is shown.
        deadline: the end of further attempts; None if there are none.
        now_s: the current time, in seconds.
    """
    cause = reason.__cause__ if isinstance(reason, Unavailable) else None
    if isinstance(reason, DeadlineExceeded):
        reason = f"no answer in {reason.timeout_s:.3g} s"
    text = f"the server at {address} is down: {cause.message if isinstance(cause, CallError) else reason}"
    if deadline is None:
        return text
    left_s = deadline.left_s(now_s)
    if left_s is None:
        return f"{text}; retrying without a time limit"
    return f"{text}; retrying for up to {left_s:.0f} s" if left_s >= 1 else text


def deadline_exceeded(call: Call, status: str | None = None, during: str | None = None) -> DeadlineExceeded:
    """The error for a call whose time is over; `during` says what it was waiting for on the client's side."""
    given = "" if call.timeout_s is None else f" of {call.timeout_s:g} s"
    where = f"model {names.given_name(call.model)} at {call.address}"
    if during is not None:
        text = f"the time limit{given} for the call to {where} is over {during}; raise timeout_s (None means no limit)"
    elif not call.model:
        text = silence(call.address, call.timeout_s)
    elif call.renewed:
        text = f"no answer came from {where} for {call.timeout_s:g} s (timeout_s); check the server, or wait longer"
    else:
        text = (
            f"the time limit{given} for the call to {where} is over; raise timeout_s (None means no limit)"
            f"{'' if call.total == 1 else f', or send fewer {call.tower}s'}"
        )
    return DeadlineExceeded(
        text,
        timeout_s=call.timeout_s,
        address=call.address,
        model=call.model,
        status=status,
        attempts=call.attempts,
    )


def not_served(
    model: str, kind: names.Kind, index: Sequence[ModelStatus] | None, *, known: bool, address: str, **context: Any
) -> ModelNotFound | ModelNotReady:
    """The error for a model that a server does not serve now.

    Args:
        model: the name that the user gave.
        kind: the kind of the requested ensemble.
        index: the state of the server's models; None if the server does not list them.
        known: whether the server may have the model, where there is no index.
        address: the server's address.
        **context: the other arguments of the error.
    """
    wanted = names.ensemble_name(model, kind)
    context |= {"address": address, "model": wanted}
    text = explain_not_ready(model, kind, index, address)
    if known if index is None else any(status.name == wanted for status in index):
        return ModelNotReady(text, **context)
    return ModelNotFound(text, available=served_models(index or ()), **context)


_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_NOT_SENT = "nothing was sent to the server at {address}"
_HINTS = {
    None: "the server at {address} could not run model {model} ({status})",
    Failure.TOO_LARGE: "a message of model {model} is too large; lower max_request_bytes",
    Failure.RESTRICTED: "the server at {address} does not let this client use model {model} ({status})",
    Failure.CANCELLED: "the call to model {model} at {address} was canceled",
}
_SERVER_HINTS = {  # for a call that is about no model
    None: "the server at {address} could not answer ({status})",
    Failure.RESTRICTED: "the server at {address} does not let this client ask that ({status})",
    Failure.CANCELLED: "the call to {address} was canceled",
}


def _advice(address: str, message: str) -> str:
    """What to check when no server answers; a failed handshake gives a better hint than silence."""
    if "CERTIFICATE_VERIFY_FAILED" in message or "certificate is refused" in message:
        return (
            "its certificate is not trusted: give the certificate of its authority with TLS(ca_file=...) or "
            "--ca-file, and use the host name that the certificate has"
        )
    is_refused_here = "refused" in message and urlsplit(address).hostname in _THIS_MACHINE
    how = " (`vitriton serve` starts one)" if is_refused_here else ""
    advice = f"check that it runs{how}, and that this is its {port_hint(address)}"
    if address.startswith(("grpcs://", "https://")):
        return f"{advice}, with TLS; for a port without TLS, use {address.partition('://')[0][:4]}://"
    if "SETTINGS frame" in message:
        return f"{advice}; for a port with TLS, use grpcs://"
    return advice


def _invalid_input(failed: CallError, call: Call) -> InvalidInput | None:
    from vitriton.preprocessing import parse_errors  # imports PIL

    refusals = parse_errors(failed.message)
    if not refusals or not all(0 <= position < len(call.indices) for position in refusals):
        return None
    problems = [
        InputProblem(call.indices[position], call.sources[position], refusal.reason or "cannot be used", refusal.code)
        for position, refusal in sorted(refusals.items())
    ]
    return INVALID[call.tower](
        problems, call.total, address=call.address, model=call.model, status=failed.code.value, attempts=call.attempts
    )
