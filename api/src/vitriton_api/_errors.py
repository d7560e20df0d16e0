"""How a request is refused: the HTTP status, and the body in OpenAI's form. One table for all errors of the client."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

from vitriton import (
    AccessDenied,
    ClientClosed,
    ClientError,
    ContractMismatch,
    DeadlineExceeded,
    InputCode,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerBusy,
    Unavailable,
    VitritonError,
)
from vitriton._console.failure import reason

RETRY_AFTER_S = 1
FaultCode = InputCode | Literal["modality"]

# The statuses of docs/guides/service.md; 422 for the others.
_STATUS_OF_INPUTS: dict[InputCode, int] = {
    "too_large": 413,
    "format": 415,
    "address_refused": 403,
    "not_fetched": 502,
    "fetch_timeout": 504,
}
_UNUSABLE = 422

# The first row whose class fits counts. The client's own texts name its options, addresses and tokens: they are for the
# log, which only the operator reads.
_ANSWERS_TO_ERRORS: tuple[tuple[type[ClientError], int, str, str], ...] = (
    (ServerBusy, 429, "server_busy", "the queue of the model is full; try again later"),
    (ModelNotFound, 404, "model_not_found", "the server of the models does not have this model now"),
    (ModelNotReady, 503, "model_not_ready", "the model is not ready; try again later"),
    (Unavailable, 503, "server_unavailable", "the server of the models does not answer"),
    (ClientClosed, 503, "stopping", "the endpoint is stopping"),
    (DeadlineExceeded, 504, "timeout", "the answer did not come in time; send fewer inputs at a time"),
    (ContractMismatch, 409, "contract_mismatch", "the server of the models has changed this model"),
    (AccessDenied, 502, "access_denied", "the server of the models does not let this endpoint in"),
    (ClientError, 502, "inference_failed", "the server of the models has failed"),
)
# What a caller reads in place of the client's reason, which tells how names resolve in the endpoint's own network
_REASONS: dict[InputCode, str] = {
    "address_refused": "its URL leads to an address from which this endpoint does not fetch",
}
_OPTION = re.compile(r" \((?:Options\.[^)]*|max_text_bytes)\)")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestRefused(VitritonError):  # noqa: N818 - as vitriton's other errors
    """A request cannot be answered; the text says why and what to do.

    Attributes:
        status: the HTTP status code.
        code: the kind of problem, for programs.
        param: the part of the request that is wrong, such as `input[3]`; None if it is no single part.
        detail: what only the log says; may be empty.
        allow: the methods that the path takes, for status 405.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 400,
        code: str = "invalid_value",
        param: str | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.detail = detail
        self.allow = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        if self.status in (429, 503):
            return {"retry-after": str(RETRY_AFTER_S)}
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"allow": self.allow} if self.allow else {}

    @property
    def body(self) -> dict[str, Any]:
        """The body in OpenAI's form."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Fault(NamedTuple):
    """What is wrong with a part of a request.

    Attributes:
        where: the part, such as `input[3]`.
        reason: the reason, as one line of text.
        code: the kind of problem of an image or a text.
        detail: what only the log says; may be empty.
    """

    where: str
    reason: str
    code: FaultCode = "kind"
    detail: str = ""


def refusal_of(error: ClientError) -> RequestRefused:
    """The refusal for a failed call of the client. `refused_inputs` is that for inputs that cannot be used."""
    _, status, code, text = _row(error)
    return RequestRefused(text, status=status, code=code, detail=reason(error))


def refused_inputs(faults: Sequence[Fault]) -> RequestRefused:
    """The refusal for images and texts that cannot be used; it names all of them."""
    statuses = {status_of_input(fault.code) for fault in faults}
    status = statuses.pop() if len(statuses) == 1 else _UNUSABLE
    code = faults[0].code if len({fault.code for fault in faults}) == 1 else "invalid_input"
    detail = "; ".join(f"{fault.where}: {fault.detail}" for fault in faults if fault.detail)
    return RequestRefused(named(faults), status=status, code=code, param=_parts(faults), detail=detail)


def refused_form(faults: Sequence[Fault], *, code: str = "invalid_type") -> RequestRefused:
    """The refusal for parts of a request that have a wrong form; it names all of them."""
    return RequestRefused(named(faults), code=code, param=_parts(faults))


def status_of_input(code: FaultCode) -> int:
    """The HTTP status code for an image or a text that cannot be used."""
    return _STATUS_OF_INPUTS.get(cast(InputCode, code), _UNUSABLE)


def named(faults: Sequence[Fault]) -> str:
    """The text for faults, with the place of each."""
    return "; ".join(f"{fault.where}: {fault.reason}" for fault in faults)


def _parts(faults: Sequence[Fault]) -> str:
    return ", ".join(fault.where for fault in faults)


def public_text(error: ClientError) -> str:
    """What a caller reads of a client's error: neither the server's address, nor options of Python."""
    return _row(error)[3]


def fault_of(where: str, error: InvalidInput) -> Fault:
    """The fault of an image or a text that the client or the server refuses."""
    reason = _REASONS.get(error.code) or _OPTION.sub("", error.reason)
    return Fault(where, reason, error.code, error.reason if error.code in _REASONS else "")


def _row(error: ClientError) -> tuple[type[ClientError], int, str, str]:
    return next(row for row in _ANSWERS_TO_ERRORS if isinstance(error, row[0]))
