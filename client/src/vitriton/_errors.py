"""What can go wrong, and whose fault it is. One root for all distributions; each draws its own part.

VitritonError
├─ ClientError             what a call of a client ends with: it has address, model, status and attempts
│  ├─ InvalidImage         the caller's: which image, why, and a code for programs; trying again does not help
│  ├─ TransportError       the way to the server
│  │  ├─ Unavailable       nobody answers at the address, or nobody who can: trying again later may help
│  │  └─ DeadlineExceeded  the call's total time is over
│  ├─ ServerError          the server answered, and did not do it
│  │  ├─ ServerBusy        its queue is full, the request waited in it for too long, or a gateway limits how many there
│  │  │                    may be: trying again helps
│  │  ├─ ModelNotFound     the server does not have the model
│  │  ├─ ModelNotReady     the server has the model, and has not loaded it: trying again helps if it is loading
│  │  ├─ AccessDenied      the token is refused or missing, or the protocol is restricted
│  │  └─ InferenceFailed   anything else that the server reports
│  ├─ ContractMismatch     the server's tensors or fingerprint are not what was asked for
│  │  └─ PipelineMismatch  what a `vitriton.pipeline` was asked for is not what the server has
│  └─ ClientClosed         the caller's: the client is closed, or was made before a fork
├─ InvalidOption           the caller's: an option of a command, an export or a launcher has a value that cannot be
├─ CommandFailed           a command cannot do what it was asked to (`_console.failure`)
├─ ExportError             vitriton_export: an export, or its verification, did not happen
├─ LauncherError           vitriton_server: Triton did not start, or did not stay
└─ BenchError              vitriton_bench: a measurement cannot be made

Below the surface, and mapped to one of those before a caller sees them: `CallError` of a transport, `NetworkFailure` of
a connection, `SourceError` of an image, `RepositoryBusy` of a model repository.

Wrong arguments of the client library raise Python's own ValueError and TypeError.
"""

# ruff: noqa: N818 - the names say what happened, and are the public interface

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

_MAX_NAMED = 5  # images that a message names; `InvalidImage.errors` has all

Error = TypeVar("Error", bound=BaseException)


class VitritonError(Exception):
    """Base of all that Vitriton raises, in all distributions. The text is for a person: what, which, what next."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come through multiprocessing and task queues whole, whatever their `__init__` takes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # not in typeshed


class ClientError(VitritonError):
    """Base of what a call of a client ends with.

    Attributes:
        address: the address of the server, if one was involved.
        model: the model as the server knows it (`<name>_pooled`), if one was involved.
        status: the server's or the transport's own status code (gRPC's name for it), if there was one.
        attempts: how many times the request was tried.
    """

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


# What kind of problem an image has. docs/client.md says which HTTP status a service may answer for each.
ImageCode = Literal[
    # in the image itself, whoever finds it, client or server
    "empty",  # no bytes, or no pixels
    "format",  # no image, or of a format that the model does not take
    "truncated",  # cut short
    "corrupt",  # the decoder fails on it
    "too_large",  # over a limit of bytes, pixels, frames or memory
    "shape",  # an array that is no image, or an image so thin that nothing is left of it
    # in what the caller gave for it
    "kind",  # an object that is no image
    "not_found",  # no such file
    "not_readable",  # a file, a file object or a tensor that fails when it is read
    # in a URL
    "bad_url",  # no URL that can be fetched: its scheme, host, port or redirects
    "address_refused",  # it leads to an address that is not public, and those are refused
    "not_fetched",  # its server cannot be reached, or answers something else than an image's bytes
    "fetch_timeout",  # its server does not give all of it in time
    "other",  # anything else; of an older server, everything that it refuses
]


class ImageProblem(NamedTuple):
    """One image that cannot be used.

    Attributes:
        index: in the caller's list, from 0.
        source: the path, the URL (without its query), or the kind of object.
        reason: one line of text.
        code: the kind of the reason, for programs.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    source: str
    reason: str
    code: ImageCode = "other"


class InvalidImage(ClientError):
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

    @property
    def code(self) -> ImageCode:
        """What kind of problem the first bad image has."""
        return self.errors[0].code


class TransportError(ClientError):
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


class ServerError(ClientError):
    """The server answered, and did not do what was asked."""


class ServerBusy(ServerError):
    """The server's queue is full, the request waited in it longer than the server allows, or a gateway limits requests.

    Worth a retry.
    """


class ModelNotFound(ServerError):
    """The server does not have the model, or not the output of it that was asked for. Correct the name, or export it.

    Attributes:
        available: the models that the server has, as `Client(model=...)` takes them; empty where it does not tell.
    """

    def __init__(self, message: str = "", *, available: Sequence[str] = (), **context: Any) -> None:
        super().__init__(message, **context)
        self.available = tuple(available)


class ModelNotReady(ServerError):
    """The server has the model, and has not loaded it: it is loading, or could not be loaded; the text says which."""


class AccessDenied(ServerError):
    """The token is refused, missing or cannot be sent, or the protocol is restricted: by the server or its gateway."""


class InferenceFailed(ServerError):
    """The server reports an error of another kind; its text is in the message."""


class ContractMismatch(ClientError):
    """The server's tensors or fingerprint are not what was asked for."""


class PipelineMismatch(ContractMismatch, ValueError):
    """What a `vitriton.pipeline` was asked for is not what the server has. A ValueError too, as transformers raises."""


class ClientClosed(ClientError, RuntimeError):
    """The client is closed, belongs to the process before a fork, or the program is ending. A RuntimeError too."""


class InvalidOption(VitritonError, ValueError):
    """An option has a value that cannot be; the text names the option, the value and the bound. A ValueError too."""

    @property
    def flag(self) -> str | None:
        """The command's option, where `problem` does not name it."""
        return None

    @property
    def problem(self) -> str:
        """What is wrong, for the usage text of a command."""
        return str(self)


def _describe(errors: Sequence[ImageProblem], total: int | None) -> str:
    of_total = "" if total is None else f" of {total}"
    if len(errors) == 1:
        index, source, reason, _ = errors[0]
        return f"image {index}{of_total} ({source}): {reason}"
    named = "; ".join(f"image {index} ({source}): {reason}" for index, source, reason, _ in errors[:_MAX_NAMED])
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
