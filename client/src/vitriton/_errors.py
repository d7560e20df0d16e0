"""What can go wrong, and whose fault it is.

VitritonError
├─ InvalidImage         the caller's: which image, and why; trying again does not help
├─ TransportError       the way to the server
│  ├─ Unavailable       nobody answers at the address, or nobody who can: trying again later may help
│  └─ DeadlineExceeded  the call's total time is over
├─ ServerError          the server answered, and did not do it
│  ├─ ServerBusy        its queue is full, the request waited in it for too long, or a gateway limits how many there
│  │                    may be: trying again helps
│  ├─ ModelNotReady     it does not have the model, or has not loaded it
│  └─ InferenceFailed   anything else that it reports
└─ ContractMismatch     the server's tensors or fingerprint are not what was asked for
   └─ PipelineMismatch  what a `vitriton.pipeline` was asked for is not what the server has

Wrong use of the library itself (a closed client, an option out of its bounds) raises Python's own RuntimeError,
ValueError and TypeError.
"""

# ruff: noqa: N818 - the names say what happened, and are the public interface

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

_MAX_NAMED = 5  # images that a message names; `InvalidImage.errors` has all

Error = TypeVar("Error", bound=BaseException)


class VitritonError(Exception):
    """Base of all that Vitriton raises.

    Attributes:
        address: of the server, if one was involved.
        model: as the server knows it (`<name>_pooled`), if one was involved.
        status: the server's or the transport's own status code (gRPC's name of it), if there was one.
        attempts: how many times the request was tried.
    """

    # Everything but the message has a default, so that errors survive pickling (multiprocessing, task queues).
    def __init__(
        self,
        message: str = "",
        *,
        address: str | None = None,
        model: str | None = None,
        status: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        self.address = address
        self.model = model
        self.status = status
        self.attempts = attempts


class ImageProblem(NamedTuple):
    """One image that cannot be used.

    Attributes:
        index: in the caller's list, from 0.
        source: the path, the URL (without its query), or the kind of object.
        reason: one line.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    source: str
    reason: str


class InvalidImage(VitritonError):
    """The caller gave an image that cannot be used. Never worth a retry; the server goes on serving.

    Attributes:
        errors: every bad image that was found, by index; never empty. Those of one request are found together,
            and the call ends with the first request that has any (unless it has on_error="return").
        total: the number of images in the call, None where it is not known (an iterator).
    """

    def __init__(
        self,
        errors: Sequence[ImageProblem],
        total: int | None = None,
        *,
        address: str | None = None,
        model: str | None = None,
        status: str | None = None,
        attempts: int = 0,
    ) -> None:
        if not errors:
            raise ValueError("InvalidImage needs at least one image")
        self.errors = tuple(ImageProblem(*error) for error in errors)
        self.total = total
        super().__init__(_describe(self.errors, total), address=address, model=model, status=status, attempts=attempts)

    @property
    def index(self) -> int:
        """The first bad image, in the caller's list, from 0."""
        return self.errors[0].index

    @property
    def source(self) -> str:
        """What the first bad image is."""
        return self.errors[0].source

    @property
    def reason(self) -> str:
        """Why the first bad image cannot be used."""
        return self.errors[0].reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors, self.total), self.__dict__


class TransportError(VitritonError):
    """The way to the server failed."""


class Unavailable(TransportError):
    """Nobody answers at the address, or the one who does cannot serve now. Worth a retry later."""


class DeadlineExceeded(TransportError):
    """The call's time is over; what was still running has been cancelled.

    Attributes:
        timeout_s: the time that the call had in all, or without an answer, in seconds.
    """

    def __init__(self, message: str = "", *, timeout_s: float | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.timeout_s = timeout_s


class ServerError(VitritonError):
    """The server answered, and did not do what was asked."""


class ServerBusy(ServerError):
    """The server's queue is full, the request waited in it longer than the server allows, or a gateway limits requests.

    Worth a retry.
    """


class ModelNotReady(ServerError):
    """The server does not have the model, or has not loaded it.

    Attributes:
        available: the models that the server has, as `Client(model=...)` takes them; empty where it does not tell.
    """

    def __init__(self, message: str = "", *, available: Sequence[str] = (), **context: Any) -> None:
        super().__init__(message, **context)
        self.available = tuple(available)


class InferenceFailed(ServerError):
    """The server reports an error of another kind; its text is in the message."""


class ContractMismatch(VitritonError):
    """The server's tensors or fingerprint are not what was asked for."""


class PipelineMismatch(ContractMismatch, ValueError):
    """What a `vitriton.pipeline` was asked for is not what the server has. A ValueError too, as transformers raises."""


def _describe(errors: Sequence[ImageProblem], total: int | None) -> str:
    of_total = "" if total is None else f" of {total}"
    if len(errors) == 1:
        index, source, reason = errors[0]
        return f"image {index}{of_total} ({source}): {reason}"
    named = "; ".join(f"image {index} ({source}): {reason}" for index, source, reason in errors[:_MAX_NAMED])
    more = f"; and {len(errors) - _MAX_NAMED} more" if len(errors) > _MAX_NAMED else ""
    return f"{len(errors)}{of_total} images cannot be used: {named}{more}"


def without_frames(error: Error) -> Error:
    """`error`, and what is behind it, without their tracebacks.

    Their frames hold the images of the call, and often the error itself: all that would stay in memory until the
    garbage collector comes.
    """
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            todo += (one.__cause__, one.__context__)
    return error
