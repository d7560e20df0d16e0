"""Sockets with one total deadline, which can be canceled and can refuse private addresses.

HTTP libraries limit each step (connecting, each read, each write). A server that sends a byte at a time stays below
every such limit for ever. Here each step gets the remaining time of the whole operation.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import itertools
import select
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from vitriton._net.operation import (
    AddressRefused,
    ConnectFailed,
    ConnectionLost,
    NetworkFailure,
    Operation,
    OutOfTime,
    current,
)

AddressInfo = tuple[Any, ...]  # as socket.getaddrinfo returns it
GetAddrInfo = Callable[..., list[AddressInfo]]

_MAX_LOOKUPS = 256
_TRY_ADDRESS_S = 5.0  # for one of several addresses of a host
_WRITE_BYTES = 2**20  # written between two checks of the time
_BUFFER_BYTES = 2**14
_NAMED = 3  # addresses named in a message

# A peer that vanishes silently (power, network) is noticed after a minute or two, even without a deadline.
_KEEPALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 6),
)

_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # everything allocated for global unicast (RFC 4291)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


class Network:
    """Makes connections. Safe to share between threads.

    Args:
        refuse_private: whether to connect only to addresses of the public internet. The checked address is the one
            that is connected to, so a name server that changes its answer in between gains nothing.
        rotate: whether each connection begins with the next of a host's addresses.
        getaddrinfo: the function that looks up a host name.
    """

    def __init__(
        self,
        *,
        refuse_private: bool = False,
        rotate: bool = False,
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    ) -> None:
        self._refuse_private = refuse_private
        self._turns = itertools.count() if rotate else itertools.repeat(0)
        self._getaddrinfo = getaddrinfo
        self._lock = threading.Lock()
        self._lookups: dict[tuple[str, int], Future[list[AddressInfo]]] = {}

    def connect(self, host: str, port: int) -> Stream:
        """Connects to the first address of `host` that accepts a connection.

        Raises:
            AddressRefused: all addresses of the host are refused.
            ConnectFailed: no address answers, or the name is unknown.
            OutOfTime, OperationCancelled: the operation timed out or was canceled.
        """
        addresses = self._allowed(host, self._resolve(host, port))
        turn = next(self._turns) % len(addresses)
        problems: list[ConnectFailed] = []
        for count, address in enumerate(addresses[turn:] + addresses[:turn], 1):
            try:
                return _connect(address, None if count == len(addresses) else _TRY_ADDRESS_S)
            except ConnectFailed as exc:
                problems.append(exc)
        more = f"; and {len(problems) - _NAMED} more addresses" if len(problems) > _NAMED else ""
        raise ConnectFailed("; ".join(map(str, problems[:_NAMED])) + more) from problems[0]

    def _allowed(self, host: str, addresses: list[AddressInfo]) -> list[AddressInfo]:
        if not self._refuse_private:
            return addresses
        allowed = [address for address in addresses if is_public(address[4][0])]
        if not allowed:
            raise AddressRefused(
                f"{host} resolves to {addresses[0][4][0]}, which is not a public internet address, and such addresses "
                "are refused (Options.refuse_private_addresses)"
            )
        return allowed

    def _resolve(self, host: str, port: int) -> list[AddressInfo]:
        try:
            return self._getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            pass  # a name
        found = self._lookup(host, port)
        done = threading.Event()
        found.add_done_callback(lambda _: done.set())
        operation = current()
        operation.begin(done.set)
        done.wait(operation.deadline.remaining_s())
        operation.end()
        if not found.done():
            raise OutOfTime(f"the look-up of the host name {host} took too long")
        try:
            addresses = found.result()
        except (OSError, UnicodeError) as exc:
            raise ConnectFailed(f"the host name {host} cannot be looked up: {_reason(exc)}") from exc
        if not addresses:
            raise ConnectFailed(f"the host name {host} has no address")
        return addresses

    def _lookup(self, host: str, port: int) -> Future[list[AddressInfo]]:
        """Looks up a host in a separate thread, since nothing can interrupt it; a second look-up joins the first."""
        key = host, port
        with self._lock:
            if key in self._lookups:
                return self._lookups[key]
            if len(self._lookups) == _MAX_LOOKUPS:
                raise ConnectFailed(
                    f"{host} cannot be looked up: {_MAX_LOOKUPS} look-ups of other host names are still running"
                )
            found: Future[list[AddressInfo]] = Future()
            self._lookups[key] = found
        try:
            threading.Thread(target=self._look_up, args=(key, found), name="vitriton-lookup", daemon=True).start()
        except RuntimeError as exc:  # no more threads
            self._fail(key, found, OSError(str(exc)))
        return found

    def _look_up(self, key: tuple[str, int], found: Future[list[AddressInfo]]) -> None:
        try:
            addresses = self._getaddrinfo(*key, type=socket.SOCK_STREAM)
        # The waiting threads get any error.
        except Exception as exc:
            self._fail(key, found, exc)
        else:
            self._forget(key)
            found.set_result(addresses)

    def _fail(self, key: tuple[str, int], found: Future[list[AddressInfo]], error: Exception) -> None:
        self._forget(key)
        found.set_exception(error)

    def _forget(self, key: tuple[str, int]) -> None:
        with self._lock:
            del self._lookups[key]


class Stream:
    """A connection, used by one thread at a time.

    It has the socket methods that `http.client` needs: `sendall`, `makefile` and `close`.

    Attributes:
        ended: whether a read has reached the end of the server's data.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.ended = False
        self._socket = sock
        self._readers = 0
        self._closing = False

    def read(self, max_bytes: int) -> bytes:
        """Reads at least one byte; returns no bytes at the end."""
        with _Step(self._socket, ConnectionLost) as operation:
            data = self._socket.recv(max_bytes)
        operation.receive(len(data))
        self.ended = not data
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Reads into `buffer`, as `read` does; returns the number of bytes."""
        with _Step(self._socket, ConnectionLost) as operation:
            count = self._socket.recv_into(buffer)
        operation.receive(count)
        self.ended = not count
        return count

    def sendall(self, data: bytes) -> None:
        """Writes all of `data`."""
        view = memoryview(data)
        while view:
            with _Step(self._socket, ConnectionLost):
                view = view[self._socket.send(view[:_WRITE_BYTES]) :]

    def makefile(self, mode: str = "rb") -> io.BufferedReader:
        """Returns a file to read from; the connection stays open until that is closed too."""
        self._readers += 1
        return io.BufferedReader(_Reader(self), _BUFFER_BYTES)

    def close(self) -> None:
        """Closes the connection, now or with its last reader. May be called again."""
        self._closing = True
        if not self._readers:
            self._socket.close()

    def release(self) -> None:
        """Notes that a reader was closed."""
        self._readers -= 1
        if self._closing:
            self.close()

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> Stream:
        """Starts TLS; returns the encrypted stream, which replaces this one.

        Raises:
            ConnectFailed: the server's certificate is refused, or the server does not speak TLS.
            OutOfTime, OperationCancelled: the operation timed out or was canceled.
        """
        if self.is_tls:
            self.close()
            raise ConnectFailed("TLS through a proxy that is itself reached by TLS is not supported")
        try:
            sock = context.wrap_socket(self._socket, server_hostname=server_name, do_handshake_on_connect=False)
        except (OSError, ValueError) as exc:  # ValueError: a name that OpenSSL cannot check
            self.close()
            raise ConnectFailed(f"TLS: {_reason(exc)}") from exc
        # The wrapped socket owns the descriptor now: a cancellation must reach it, and it must be closed.
        try:
            with _Step(sock, ConnectFailed, "TLS: "):
                sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return Stream(sock)

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return isinstance(self._socket, ssl.SSLSocket)

    @property
    def is_readable(self) -> bool:
        """Whether there is something to read; on an idle connection that can only be its end."""
        if self._socket.fileno() < 0:
            return True
        if hasattr(select, "poll"):  # not on Windows, where select takes any socket
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([self._socket], [], [], 0)[0])


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also when it is embedded in an IPv6 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None:
            return ip.is_global and ip in _GLOBAL_V6
        ip = inner
    return ip.is_global and not ip.is_multicast


class _Reader(io.RawIOBase):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.release()


class _Step:
    """One call on a socket, limited by the remaining time of this thread's operation."""

    def __init__(
        self, sock: socket.socket, failed: type[NetworkFailure], prefix: str = "", limit_s: float | None = None
    ) -> None:
        self._socket = sock
        self._failed = failed
        self._prefix = prefix
        self._limit_s = limit_s
        self._operation = current()

    def __enter__(self) -> Operation:
        self._operation.begin(self._shut_down)
        deadline, limit_s = self._operation.deadline, self._limit_s
        seconds = deadline.remaining_s() if limit_s is None else deadline.bounded_s(limit_s)
        try:
            if seconds == 0:  # a socket timeout of 0 means "do not wait"
                raise OutOfTime("the time is over")
            self._socket.settimeout(seconds)
        except OSError as exc:  # closed by another thread
            self._operation.end()
            raise self._failed(f"{self._prefix}{_reason(exc)}") from exc
        except OutOfTime:
            self._operation.end()
            raise
        return self._operation

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._operation.end()
        if isinstance(error, TimeoutError) and error.errno is None:  # Python's own; the system's has an errno
            if self._limit_s is None or self._operation.deadline.expired:
                raise OutOfTime(f"{self._prefix}no answer in time") from error
            raise self._failed(f"{self._prefix}no answer in {self._limit_s:g} s") from error
        if isinstance(error, (OSError, ValueError)):  # ValueError: TLS on a closed socket
            raise self._failed(f"{self._prefix}{_reason(error)}") from error

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):  # not connected
            # Not SSLSocket's own shutdown, which removes the TLS state during a read.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _connect(address: AddressInfo, limit_s: float | None) -> Stream:
    """Connects to exactly this address, within `limit_s` seconds."""
    family, kind, protocol, _, place = address
    prefix = f"{place[0]} port {place[1]}: "
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as exc:  # no more file descriptors, or an unsupported address family
        raise ConnectFailed(f"{prefix}{_reason(exc)}") from exc
    try:
        with _Step(sock, ConnectFailed, prefix, limit_s):
            sock.connect(place)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    sock.setsockopt(level, getattr(socket, name), value)
    except BaseException:
        sock.close()
        raise
    return Stream(sock)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
