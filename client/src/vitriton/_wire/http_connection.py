"""Kept-alive HTTP/1.1 connections to one server: the standard library's `http.client` over our own sockets.

httpcore, which fetches the URLs, is slower for small requests (`python bench/http_stack.py`), and `http.client` reads a
large body straight into its final buffer.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitriton._errors import VitritonError
from vitriton._net.network import Network
from vitriton._net.operation import ConnectionLost, Operation

KEEPALIVE_S = 30.0  # gateways keep an idle connection for longer, usually 60 s or more

_SURELY_ALIVE_S = 1.0  # if the server closed it anyway, Connections.exchange makes another
_MAX_ERROR_BYTES = 2**20  # an error that names 4096 images has 20 kB
_MAX_HEAD_BYTES = 2**20  # everything but the body: status, headers, chunk boundaries
_PIECE_BYTES = 2**20  # the size of reads of a body without a length
_JOIN_BYTES = 2**16  # below this size a copy costs less than another system call


class TooLarge(VitritonError):  # noqa: N818 - says what happened
    """The body of a response is over its limit."""


class CutShort(VitritonError, http.client.HTTPException):  # noqa: N818 - says what happened
    """The connection ended before the body did."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """An HTTP request.

    Attributes:
        method: GET or POST.
        path: the path on the server, quoted.
        headers: the headers, with names in lower case, without those that http.client sets (host, accept-encoding).
        body: the parts of the body, sent one after the other.
        max_bytes: the most bytes that the response's body may have.
        head_header: the name of the response header that gives the length of the body's first part.
    """

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    body: Sequence[bytes] = ()
    max_bytes: int
    head_header: str = ""


@dataclass(frozen=True, kw_only=True)
class Response:
    """An HTTP response.

    Attributes:
        status: the HTTP status code.
        reason: the reason phrase of the status line.
        head_length: the value of `head_header`, if there was one.
        head: the first part of the body; the whole body if `head_length` is no length within it.
        rest: the second part of the body.
    """

    status: int
    reason: str
    head_length: str | None
    head: bytes
    rest: bytes


class Connections:
    """Connections to one server. Safe to share between threads.

    Args:
        network: the network that makes them.
        host: the server's name or address.
        port: the server's port.
        context: the TLS settings; None: no TLS.
        server_name: the name that the server's certificate must be for.
        limit: the most idle connections to keep.
    """

    def __init__(
        self, network: Network, host: str, port: int, *, context: ssl.SSLContext | None, server_name: str, limit: int
    ) -> None:
        self._network = network
        self._host = host
        self._port = port
        self._context = context
        self._server_name = server_name
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []  # the last used on top, so that surplus ones expire
        self._closed = False

    def exchange(self, request: Request, operation: Operation) -> Response:
        """Sends a request, and reads the whole response, as `operation`.

        Raises:
            NetworkFailure: the connection failed, or the operation timed out or was canceled.
            http.client.HTTPException: the response is not HTTP, or incomplete.
            TooLarge: the response's body is over `max_bytes`.
        """
        operation.max_received = request.max_bytes + _MAX_HEAD_BYTES
        with operation:
            connection = self._take()
            used = connection is not None
            while True:
                connection = connection or self._make()
                try:
                    return connection.exchange(request)
                except (ConnectionLost, http.client.RemoteDisconnected):
                    # The server closed the idle connection at this moment. No response has begun, and every request
                    # of this transport may safely be sent twice.
                    if not used or operation.received:
                        raise
                finally:
                    self._give(connection)
                connection, used = None, False

    def close(self) -> None:
        """Closes the idle connections now, and the others when they are returned."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _make(self) -> _Connection:
        return _Connection(self._network, self._host, self._port, self._context, self._server_name)

    def _take(self) -> _Connection | None:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None or connection.is_alive:
                return connection
            connection.close()

    def _give(self, connection: _Connection) -> None:
        unwanted = connection
        with self._lock:
            if connection.is_open and not self._closed:
                self._idle.append(connection)
                if len(self._idle) <= self._limit and not self._idle[0].is_old:
                    return
                unwanted = self._idle.pop(0)
        unwanted.close()


class _Connection(http.client.HTTPConnection):
    """One connection, opened at first use. Any exception leaves it closed."""

    def __init__(
        self, network: Network, host: str, port: int, context: ssl.SSLContext | None, server_name: str
    ) -> None:
        super().__init__(host, port)
        if context is not None:
            self.default_port = http.client.HTTPS_PORT
        self.sock: Any  # a Stream in place of a socket; None before and after
        self._network = network
        self._context = context
        self._server_name = server_name
        self._unsent: list[bytes] = []
        self._idle_since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the connection can be used again."""
        return self.sock is not None

    @property
    def is_old(self) -> bool:
        """Whether the connection has been idle for longer than `KEEPALIVE_S`."""
        return time.monotonic() - self._idle_since > KEEPALIVE_S

    @property
    def is_alive(self) -> bool:
        """Whether the connection seems open, without a request to the server."""
        idle_s = time.monotonic() - self._idle_since
        return idle_s <= _SURELY_ALIVE_S or (idle_s <= KEEPALIVE_S and not self.sock.is_readable)

    def connect(self) -> None:
        """Connects as the base class does, over `Network`."""
        stream = self._network.connect(self.host, self.port)
        self.sock = stream if self._context is None else stream.start_tls(self._context, self._server_name)

    def send(self, data: Any) -> None:
        """Collects what the base class writes; `_flush` joins small pieces and sends them."""
        self._unsent.append(data)

    def exchange(self, request: Request) -> Response:
        """See `Connections.exchange`."""
        try:
            if self.sock is None:
                self.connect()
            headers = dict(request.headers)
            if request.body:
                # Never chunked: Triton keeps each chunk as a separate buffer, and refuses a BYTES tensor if an
                # element's length lies across two of them.
                headers["content-length"] = str(sum(map(len, request.body)))
            self.request(request.method, request.path, request.body or None, headers)
            sent, stream = self._flush(), self.sock
            with contextlib.closing(self.getresponse()) as incoming:
                if stream.ended:  # http.client takes this for the end of the headers
                    raise CutShort("the headers are not complete")
                response = _read(incoming, request)
                complete = incoming.isclosed()
        except BaseException:
            self.close()
            raise
        if not (sent and complete):
            self.close()
        self._idle_since = time.monotonic()
        return response

    def _flush(self) -> bool:
        """Whether everything was sent. If not, there may be a response that says why (the request is too large)."""
        pieces, self._unsent = self._unsent, []
        whole = sum(map(len, pieces)) <= _JOIN_BYTES  # else the last piece, the tensor, is sent uncopied
        small, large = (pieces, []) if whole else (pieces[:-1], pieces[-1:])
        try:
            for piece in (b"".join(small), *large):
                self.sock.sendall(piece)
        except ConnectionLost:
            return False
        return True


def _read(incoming: http.client.HTTPResponse, request: Request) -> Response:
    head_length = incoming.getheader(request.head_header) if request.head_header else None
    limit = request.max_bytes if incoming.status == 200 else _MAX_ERROR_BYTES
    size = incoming.length
    if size is None:
        body = _read_open_end(incoming, limit)
        at = _place(head_length, len(body))
        head, rest = (body, b"") if at is None else (body[:at], body[at:])
    elif size <= limit:
        at = _place(head_length, size)
        head = _read_exactly(incoming, size if at is None else at)
        rest = _read_exactly(incoming, size - len(head))
    elif incoming.status == 200:
        raise TooLarge(f"{size} bytes, over the limit of {limit}")
    else:
        head, rest = _read_exactly(incoming, limit), b""
    return Response(status=incoming.status, reason=incoming.reason, head_length=head_length, head=head, rest=rest)


def _place(head_length: str | None, size: int) -> int | None:
    if head_length is None or not head_length.isdecimal() or len(head_length) > len(str(size)):
        return None
    return int(head_length) if int(head_length) <= size else None


def _read_exactly(incoming: http.client.HTTPResponse, size: int) -> bytes:
    data = incoming.read(size)
    if len(data) < size:
        raise CutShort(f"the body ended {size - len(data)} bytes too early")
    return data


def _read_open_end(incoming: http.client.HTTPResponse, limit: int) -> bytes:
    """Reads a chunked body, or one that ends with the connection."""
    pieces: list[bytes] = []
    size = 0
    while piece := incoming.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise TooLarge(f"more than the limit of {limit} bytes")
    return b"".join(pieces)
