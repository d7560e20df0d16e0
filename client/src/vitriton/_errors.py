"""The errors of all distributions, and whose fault each is. They have one root; each distribution draws its own part.

VitritonError
├─ ClientError             a client's call failed: address, model, status and attempts
│  ├─ InvalidInput         the caller's: which input, why, and a code for programs; a retry does not help
│  │  ├─ InvalidImage      an image
│  │  └─ InvalidText       a text
│  ├─ TransportError       the connection to the server failed
│  │  ├─ Unavailable       no server answers at the address, or it cannot serve now; a later retry may help
│  │  └─ DeadlineExceeded  the call's total time is over
│  ├─ ServerError          the server answered, and failed or refused
│  │  ├─ ServerBusy        the queue is full, the request waited in it for too long, or a gateway limits requests; a
│  │  │                    retry helps
│  │  ├─ ModelNotFound     the server does not have the model
│  │  ├─ ModelNotReady     the server has the model, but has not loaded it; a retry helps if it is loading
│  │  ├─ AccessDenied      the token is refused or missing, or the protocol is restricted
│  │  └─ InferenceFailed   the server reports any other error
│  ├─ ContractMismatch     the server's tensors or fingerprint differ from the expected ones
│  │  └─ PipelineMismatch  an argument of `vitriton.pipeline` contradicts the served model
│  └─ ClientClosed         the caller's: the client is closed, or was made before a fork
├─ InvalidVideo            the caller's: a video, or a part of one, cannot be read: which, why, and a code for programs
├─ InvalidOption           the caller's: an option of a command, an export or a launcher has an invalid value
├─ CommandFailed           a command failed (`_console.failure`)
├─ ExportError             vitriton_export: an export or its verification failed
├─ LauncherError           vitriton_server: Triton did not start, or stopped
├─ BenchError              vitriton_bench: a measurement cannot be made
├─ RequestRefused          vitriton_api: a request over HTTP cannot be answered
├─ PageRefused             vitriton_search: a request to the page cannot be answered
├─ ShardsFailed            vitriton_ray: rows cannot be embedded, for a reason that is not in them
├─ StoreError              vitriton_search: a vector store cannot be opened, read or written
└─ WhereError              vitriton_search: the text of a condition cannot be understood

Internal errors become one of these before a caller sees them: `CallError` of a transport, `NetworkFailure` of a
connection, `SourceError` of an image, `RepositoryBusy` of a model repository.

Invalid arguments of the client library raise Python's own ValueError and TypeError.
"""

# ruff: noqa: N818 - the names say what happened, and are the public interface

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

_MAX_NAMED = 5  # the largest number of inputs in a message; `InvalidInput.errors` has all

Error = TypeVar("Error", bound=BaseException)


class VitritonError(Exception):
    """Base of all errors of Vitriton, in all distributions. The text says what failed, which object, and what to do."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets errors pass through multiprocessing and task queues unchanged, whatever their `__init__` takes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # not in typeshed


class ClientError(VitritonError):
    """Base of the errors of a client's calls.

    Attributes:
        address: the server's address, if a server was involved.
        model: the name of the model on the server (`<name>_pooled`), if a model was involved.
        status: the status code of the server or the transport, by gRPC's name, if there was one.
        attempts: the number of attempts.
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


# The kinds of problems of inputs. docs/guides/service.md says which HTTP status a service may answer for each.
InputCode = Literal[
    # problems of the image or the text itself, found by the client or the server
    "empty",  # no bytes, no pixels, or no tokens
    "format",  # not an image, or in a format that the model does not take
    "truncated",  # cut short
    "corrupt",  # the decoder fails
    "too_large",  # over a limit on bytes, pixels, frames, memory or tokens
    "encoding",  # a text that is not UTF-8, or has half of a surrogate pair
    "shape",  # an array that is not an image, or an image so thin that resizing leaves nothing of it
    # problems of the caller's object
    "kind",  # an object that is not an image, or not a text
    "not_found",  # no such file
    "not_readable",  # a file, a file object or a tensor that cannot be read
    "path_refused",  # a path, where paths are refused
    # problems of a URL
    "bad_url",  # a URL that cannot be fetched, because of its scheme, host, port or redirects
    "address_refused",  # the URL leads to an address that is not public, and such addresses are refused
    "not_fetched",  # the URL's server cannot be reached, or does not answer with an image's bytes
    "fetch_timeout",  # the URL's server does not send all of the image in time
    "other",  # any other problem; from an older server, every problem
]


class InputProblem(NamedTuple):
    """The problem of one image or text.

    Attributes:
        index: the index in the caller's input, from 0.
        source: the path, the URL (without its query), or the kind of object; empty for a text, which may be secret.
        reason: the reason, as one line of text.
        code: the kind of problem, for programs.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    source: str
    reason: str
    code: InputCode = "other"


@dataclass(frozen=True)
class Unreadable:
    """An input that cannot be used, as a value: the frames of an exception would keep the input in memory.

    Attributes:
        reason: the reason, as one line of text without the input's name.
        code: the kind of reason, for programs.
        cause: the underlying error, without a traceback.
    """

    reason: str
    code: InputCode
    cause: BaseException | None = None


class InvalidInput(ClientError):
    """One or more of the caller's images or texts cannot be used. A retry does not help.

    Attributes:
        errors: the invalid inputs, sorted by index; never empty. The server reports all invalid inputs of a request
            together; an input that the client cannot read is reported alone. The first report ends the call (unless
            on_error="return"), so other inputs of the call may be invalid as well.
        total: the number of inputs in the call; None if it is unknown (an iterator).
    """

    _noun: ClassVar[str] = "input"

    def __init__(
        self,
        errors: Sequence[InputProblem],
        total: int | None = None,
        *,
        address: str | None = None,
        model: str | None = None,
        status: str | None = None,
        attempts: int = 0,
    ) -> None:
        if not errors:
            raise ValueError(f"{type(self).__name__} needs at least one {self._noun}")
        self.errors = tuple(sorted((InputProblem(*error) for error in errors), key=lambda error: error.index))
        self.total = total
        text = _describe(self._noun, self.errors, total)
        super().__init__(text, address=address, model=model, status=status, attempts=attempts)

    @property
    def index(self) -> int:
        """The index of the first invalid input in the caller's input, from 0."""
        return self.errors[0].index

    @property
    def source(self) -> str:
        """The source of the first invalid input; empty for a text."""
        return self.errors[0].source

    @property
    def reason(self) -> str:
        """The reason why the first invalid input cannot be used."""
        return self.errors[0].reason

    @property
    def code(self) -> InputCode:
        """The kind of problem of the first invalid input."""
        return self.errors[0].code


class InvalidImage(InvalidInput):
    """One or more of the caller's images cannot be used. A retry does not help."""

    _noun = "image"


class InvalidText(InvalidInput):
    """One or more of the caller's texts cannot be used. A retry does not help.

    The error names a text by its index, and never has its content.
    """

    _noun = "text"


class TransportError(ClientError):
    """The connection to the server failed."""


class Unavailable(TransportError):
    """No server answers at the address, or it cannot serve now. A later retry may help."""


class DeadlineExceeded(TransportError):
    """The call's time is over; its running requests are canceled.

    Attributes:
        timeout_s: the time limit of the whole call, or of the wait for an answer, in seconds.
    """

    def __init__(self, message: str = "", *, timeout_s: float | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.timeout_s = timeout_s


class ServerError(ClientError):
    """The server answered, and failed or refused."""


class ServerBusy(ServerError):
    """The server's queue is full, the request waited in it longer than the server allows, or a gateway limits requests.

    A retry helps.
    """


class ModelNotFound(ServerError):
    """The server does not have the model, or not the requested output. Correct the name, or export the model.

    Attributes:
        available: the names of the server's models, as `Client(model=...)` takes them; empty if it does not list them.
    """

    def __init__(self, message: str = "", *, available: Sequence[str] = (), **context: Any) -> None:
        super().__init__(message, **context)
        self.available = tuple(available)


class ModelNotReady(ServerError):
    """The server has the model, but it is still loading, or loading failed; the text says which."""


class AccessDenied(ServerError):
    """The server or its gateway refuses the token or restricts the protocol, or the token is missing or unsendable."""


class InferenceFailed(ServerError):
    """The server reports any other error; the message has its text."""


class ContractMismatch(ClientError):
    """The server's tensors or fingerprint differ from the expected ones."""


class PipelineMismatch(ContractMismatch, ValueError):
    """An argument of `vitriton.pipeline` contradicts the served model. Also a ValueError, as transformers raises."""


class ClientClosed(ClientError, RuntimeError):
    """The client is closed or was made before a fork, or the program is ending. Also a RuntimeError."""


class InvalidVideo(VitritonError):
    """A video cannot be read, or not all of it. A retry does not help, except with a URL.

    Attributes:
        source: the path, the URL (without its query), or the kind of object.
        reason: the reason, as one line of text.
        code: the kind of problem, for programs.
    """

    def __init__(self, source: str, reason: str, code: InputCode = "other") -> None:
        super().__init__(f"video {source}: {reason}")
        self.source = source
        self.reason = reason
        self.code: InputCode = code


class InvalidOption(VitritonError, ValueError):
    """An option has an invalid value; the text names the option, the value and what to do. Also a ValueError.

    Attributes:
        option: the name of the option in Python; empty if `wrong` is the whole sentence.
        wrong: the fault and what to do, as the rest of a sentence that begins with the option. Other options in it are
            named in Python, too, in backticks.
    """

    def __init__(self, option: str, wrong: str) -> None:
        super().__init__(f"{option} {wrong}".lstrip())
        self.option = option
        self.wrong = wrong


def without_frames(error: Error) -> Error:
    """Removes the tracebacks of `error` and of the errors behind it; returns `error`.

    Their frames hold the inputs of the call, and often the error itself, which would keep all of that in memory until
    the garbage collector runs.
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


def _describe(noun: str, errors: Sequence[InputProblem], total: int | None) -> str:
    of_total = "" if total is None else f" of {total}"
    if len(errors) == 1:
        return _named(f"{noun} {errors[0].index}{of_total}", errors[0])
    named = "; ".join(_named(f"{noun} {error.index}", error) for error in errors[:_MAX_NAMED])
    more = f"; and {len(errors) - _MAX_NAMED} more" if len(errors) > _MAX_NAMED else ""
    return f"{len(errors)}{of_total} {noun}s cannot be used: {named}{more}"


def _named(name: str, error: InputProblem) -> str:
    return f"{name} ({error.source}): {error.reason}" if error.source else f"{name}: {error.reason}"
