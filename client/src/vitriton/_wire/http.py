"""The HTTP transport: Triton's HTTP endpoint, over kept-alive connections and its own threads."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout

from vitriton._deadline import Deadline
from vitriton._errors import without_frames
from vitriton._net.network import Network
from vitriton._net.operation import ConnectFailed, ConnectionLost, Operation, OperationCancelled, OutOfTime
from vitriton._options import MAX_MESSAGE_BYTES
from vitriton._wire import kserve
from vitriton._wire.address import Address
from vitriton._wire.connection import TLS, ConnectionSettings
from vitriton._wire.http_connection import Connections, CutShort, Request, Response, TooLarge
from vitriton._wire.kserve import printable
from vitriton._wire.statistics import ModelStatistics
from vitriton._wire.transport import (
    CallError,
    Code,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatus,
    Pending,
    ServerMetadata,
)
from vitriton._wire.workers import Workers

_CLOSE_S = 1.0


class HttpTransport:
    """HTTP/1.1 to one server.

    Each request takes a thread and a connection, at most `settings.max_connections` at a time; further requests wait.
    Calls other than `send` use the caller's thread, and a connection beyond that number.

    From version 2.59 Triton limits the body of a request to 64 MiB, unless `--http-max-input-size` says otherwise.
    In its sources (2.73) the limit applies to JSON and to compressed or raw bodies, not to a binary tensor after its
    JSON, which is what this transport sends. `Options` keeps requests below it anyway: gateways have such limits too.

    If the server closes a kept-alive connection before it answers, the request is sent once more over a new one.
    Proxies of the environment are not used: a model server is near.

    Args:
        address: the server's address, with the scheme http:// or https://.
        settings: the TLS settings, headers and number of connections.

    Raises:
        ValueError: a file of `settings.tls` is invalid, or the host is not a valid host name.
    """

    def __init__(self, address: Address, settings: ConnectionSettings) -> None:
        from vitriton._version import __version__

        self.address = str(address)
        self._settings = settings
        self._user_agent = f"vitriton/{__version__}"
        host = _host(address)
        self._connections = Connections(
            Network(rotate=True),
            host,
            address.port,
            context=_ssl_context(settings.tls) if address.scheme == "https" else None,
            server_name=settings.tls.server_name or host,
            limit=settings.max_connections,
        )
        self._workers = Workers(settings.max_connections, f"vitriton-http-{address.target}")
        self._lock = threading.Lock()
        self._running: set[Operation] = set()
        self._closed = False

    def server_metadata(self, timeout_s: float | None) -> ServerMetadata:
        """See `Transport`."""
        return kserve.read_metadata(self._call("GET", "/v2", timeout_s))

    def is_model_ready(self, model: str, timeout_s: float | None) -> bool:
        """See `Transport`."""
        try:
            body = self._call("GET", kserve.model_path(model, "ready"), timeout_s)
        except CallError as exc:
            if kserve.is_not_ready(exc):
                return False
            raise
        if body:  # a web server that answers every path with a page
            raise CallError(Code.DATA_LOSS, "the answer to whether a model is ready has a body, and Triton's has none")
        return True

    def model_config(self, model: str, timeout_s: float | None) -> ModelConfig:
        """See `Transport`."""
        return kserve.read_config(self._call("GET", kserve.model_path(model, "config"), timeout_s))

    def repository_index(self, timeout_s: float | None) -> Sequence[ModelStatus]:
        """See `Transport`."""
        return kserve.read_index(self._call("POST", "/v2/repository/index", timeout_s))

    def statistics(self, timeout_s: float | None) -> Sequence[ModelStatistics]:
        """See `Transport`."""
        return kserve.read_model_statistics(self._call("GET", "/v2/models/stats", timeout_s))

    def send(self, request: InferRequest, timeout_s: float | None) -> Pending:
        """See `Transport`."""
        deadline = Deadline.after(timeout_s)
        pending = _HttpPending(deadline, lambda operation: self._infer(request, operation), self._workers.withdraw)
        try:
            self._workers.submit(pending)
        except RuntimeError as exc:
            code = Code.CANCELLED if self._closed else Code.RESOURCE_EXHAUSTED
            raise CallError(code, f"the request cannot be sent: {exc}") from exc
        return pending

    def infer(self, request: InferRequest, timeout_s: float | None) -> InferReply:
        """See `Transport`."""
        return self._infer(request, Operation(Deadline.after(timeout_s)))

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        self._workers.close()
        for operation in running:
            operation.cancel()
        self._workers.join(_CLOSE_S)
        self._connections.close()

    def _infer(self, request: InferRequest, operation: Operation) -> InferReply:
        head, content = _body(request, operation.deadline)
        response = self._exchange(
            Request(
                method="POST",
                path=kserve.model_path(request.model, "infer"),
                headers=[*self._headers(request.headers), (kserve.HEADER_LENGTH, str(len(head)))],
                body=(head, content),
                max_bytes=MAX_MESSAGE_BYTES,
                head_header=kserve.HEADER_LENGTH,
            ),
            operation,
        )
        return kserve.read_infer(response.head_length, response.head, response.rest, request.beside)

    def _call(self, method: str, path: str, timeout_s: float | None) -> bytes:
        """Sends a request and waits for the response's body, in this thread."""
        request = Request(method=method, path=path, headers=self._headers({}), max_bytes=kserve.MAX_JSON_BYTES)
        return self._exchange(request, Operation(Deadline.after(timeout_s))).head

    def _exchange(self, request: Request, operation: Operation) -> Response:
        """Sends a request, and reads the whole response.

        Raises:
            CallError: there is no complete response, or its status is not 200.
        """
        with self._registered(operation):
            try:
                response = self._connections.exchange(request, operation)
            # A server's bytes can break a parser in any way, and each is the server's fault.
            except Exception as exc:
                raise _to_call_error(exc, operation.deadline) from without_frames(exc)
        if response.status != 200:
            raise kserve.read_error(response.status, response.reason, response.head + response.rest)
        return response

    def _headers(self, extra: Mapping[str, str]) -> list[tuple[str, str]]:
        try:
            headers = self._settings.request_headers(extra)
        # The token function is the caller's code, and can fail in any way.
        except Exception as exc:
            raise CallError(Code.UNAUTHENTICATED, f"the token function failed: {exc!r}") from exc
        for name, value in headers:
            if not (value.isascii() and value.isprintable()):
                raise CallError(Code.UNAUTHENTICATED, f"the header {name} is not printable ASCII; check the token")
        return [*headers, ("user-agent", self._user_agent)]

    @contextlib.contextmanager
    def _registered(self, operation: Operation) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise CallError(Code.CANCELLED, "this client is closed")
            self._running.add(operation)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(operation)


class _HttpPending:
    """A request that waits for a thread or is running in one."""

    def __init__(
        self,
        deadline: Deadline,
        work: Callable[[Operation], InferReply],
        withdraw: Callable[[_HttpPending], None],
    ) -> None:
        self.deadline = deadline
        self._operation = Operation(deadline)
        self._work: Callable[[Operation], InferReply] | None = work
        self._withdraw = withdraw
        self._future: Future[InferReply | CallError] = Future()

    def result(self) -> InferReply:
        try:
            outcome = self._future.result(self.deadline.remaining_s())
        except FutureTimeout:
            self.expire()
            outcome = self._future.result()
        if isinstance(outcome, CallError):
            # A new exception each time: a kept one would collect the frames of every place where it is raised.
            raise CallError(outcome.code, outcome.message) from outcome.__cause__
        return outcome

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        self._future.add_done_callback(lambda _: callback())

    def cancel(self) -> None:
        self._give_up(CallError(Code.CANCELLED, "canceled by this client"))

    def run(self) -> None:
        """Runs in a worker's thread."""
        work = self._work
        if work is None:
            return
        try:
            outcome: InferReply | CallError = work(self._operation)
        except CallError as exc:
            outcome = exc
        except BaseException as exc:  # a bug in this module must not leave the waiting caller blocked for ever
            outcome = CallError(Code.UNKNOWN, f"{type(exc).__name__}: {exc}")
            outcome.__cause__ = exc
        if isinstance(outcome, CallError):
            without_frames(outcome)
        self._settle(outcome)

    def expire(self) -> None:
        self._give_up(_late(self.deadline))

    def _give_up(self, error: CallError) -> None:
        if not self._future.done():
            self._withdraw(self)
            self._settle(error)
            self._operation.cancel()

    def _settle(self, outcome: InferReply | CallError) -> None:
        self._work = None  # it holds the inputs
        with contextlib.suppress(InvalidStateError):  # settled by another thread, a moment ago
            self._future.set_result(outcome)


def _body(request: InferRequest, deadline: Deadline) -> tuple[bytes, bytes]:
    """The JSON and the tensor of a request."""
    try:
        content = b"".join(request.content())
    except MemoryError as exc:
        raise CallError(Code.RESOURCE_EXHAUSTED, "there is not enough memory for the request") from exc
    timeout_us, left_s = request.timeout_us(), deadline.remaining_s()
    if timeout_us is not None and left_s is not None:  # the request may have waited for a thread
        timeout_us = max(1, min(timeout_us, int(left_s * 1e6)))
    head = kserve.write_infer(request, len(content), timeout_us)
    size = len(head) + len(content)
    if size > MAX_MESSAGE_BYTES:
        raise CallError(Code.RESOURCE_EXHAUSTED, f"the request is larger than max ({size} vs. {MAX_MESSAGE_BYTES})")
    return head, content


def _to_call_error(exc: Exception, deadline: Deadline) -> CallError:
    if isinstance(exc, OperationCancelled):
        return CallError(Code.CANCELLED, "canceled by this client")
    if isinstance(exc, OutOfTime):
        return _late(deadline)
    if isinstance(exc, TooLarge):
        return CallError(Code.RESOURCE_EXHAUSTED, f"the reply is larger than max ({exc})")
    if isinstance(exc, MemoryError):
        return CallError(Code.RESOURCE_EXHAUSTED, "there is not enough memory for the reply")
    text = printable(str(exc)) or type(exc).__name__
    if isinstance(exc, ConnectFailed):
        return CallError(Code.UNAVAILABLE, f"failed to connect: {text}")
    if isinstance(exc, (ConnectionLost, CutShort, http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return CallError(Code.UNAVAILABLE, f"the connection was lost: {text}")
    if isinstance(exc, http.client.BadStatusLine):  # its text is whatever came, of gRPC for example
        return CallError(Code.UNAVAILABLE, "what answers does not speak HTTP: the answer has no status line")
    return CallError(Code.UNAVAILABLE, f"what answers does not speak HTTP: {type(exc).__name__}: {text}")


def _late(deadline: Deadline) -> CallError:
    return CallError(Code.DEADLINE_EXCEEDED, f"no complete answer in {deadline.timeout_s:g} s")


def _host(address: Address) -> str:
    try:
        return address.host if address.host.isascii() else address.host.encode("idna").decode()
    except UnicodeError as exc:
        raise ValueError(f"address {address}: {address.host!r} cannot be the name of a host ({exc})") from exc


def _ssl_context(tls: TLS) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.set_alpn_protocols(["http/1.1"])
    except (OSError, ssl.SSLError) as exc:
        raise ValueError(f"TLS: ca_file {tls.ca_file} holds no certificates in PEM: {exc}") from exc
    if tls.cert_file is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (OSError, ssl.SSLError) as exc:
            raise ValueError(
                f"TLS: cert_file {tls.cert_file} and key_file {tls.key_file} do not hold a certificate and the key "
                f"to it in PEM, without a password: {exc}"
            ) from exc
    return context
