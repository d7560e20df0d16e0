"""How the page refuses: an HTTP status, and a sentence that the reader of the page sees. One table for all errors."""

from __future__ import annotations

from vitriton import (
    ClientError,
    ContractMismatch,
    DeadlineExceeded,
    InputCode,
    InvalidInput,
    ServerBusy,
    VitritonError,
)

from vitriton_search.answers.errors import AnswerError
from vitriton_search.stores.store import StoreError
from vitriton_search.stores.where import WhereError

_STATUS_OF_INPUTS: dict[InputCode, int] = {"too_large": 413, "format": 415}
_UNUSABLE = 422


class PageRefused(VitritonError):  # noqa: N818 - as vitriton's other errors
    """A request to the page cannot be answered; the text says why and what to do.

    Attributes:
        status: the HTTP status code.
        field: the part of the form that is wrong, such as `where`; None if it is none.
    """

    def __init__(self, message: str, status: int = 400, *, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field


def refusal_of(error: VitritonError) -> PageRefused:
    """The refusal for an error of a store, of an answer or of the client."""
    if isinstance(error, PageRefused):
        return error
    if isinstance(error, WhereError):
        return PageRefused(str(error), field="where")
    if isinstance(error, AnswerError):
        return PageRefused(str(error), _UNUSABLE)
    if isinstance(error, InvalidInput):
        first = error.errors[0]
        return PageRefused(f"this cannot be searched for: {first.reason}", _STATUS_OF_INPUTS.get(first.code, _UNUSABLE))
    if isinstance(error, ContractMismatch):
        text = "the server of the model has another model than the one that this store was indexed with"
        return PageRefused(f"{text}; serve that one, or index again", 409)
    if isinstance(error, ServerBusy):
        return PageRefused("the server of the model is busy; try again in a moment", 503)
    if isinstance(error, DeadlineExceeded):
        return PageRefused("the server of the model did not answer in time; try again", 504)
    if isinstance(error, ClientError):
        text = "the server of the model does not answer, so that pictures and texts cannot be searched for"
        return PageRefused(f"{text}; results can still be followed to more like them", 503)
    if isinstance(error, StoreError):
        return PageRefused(f"the store does not answer: {error}", 500)
    return PageRefused("the page has failed; the log of `vitriton search serve` says why", 500)
