"""The TCP connections of a port and their last traffic, which the kernel shows any user (sock_diag(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Constants of <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h> and <linux/tcp.h>.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_INFO = 2  # the attribute that holds a `struct tcp_info`
_OPEN = 1 << 1 | 1 << 8  # ESTABLISHED and CLOSE_WAIT

_HEADER = struct.Struct("=IHHII")
_MESSAGE_BYTES = 72
_ANSWER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TcpConnection:
    """One TCP connection, from the server's side.

    Attributes:
        inode: the inode of its socket, as in the links of /proc/PID/fd.
        unread: the bytes that the server has not read yet.
        unsent: the bytes that the client has not acknowledged yet.
        received: the bytes that the client has sent in all.
        sent: the bytes of the server that the client has acknowledged in all.
        in_step: whether both sides have sent the same number of segments, as after one response to each short request.
        since_received_s: the time since the client last sent data, in seconds, in the kernel's ticks of 1 to 10 ms.
        since_sent_s: the time since the server last sent data, in seconds, in the same ticks.
    """

    inode: int
    unread: int
    unsent: int
    received: int
    sent: int
    in_step: bool
    since_received_s: float
    since_sent_s: float

    @property
    def quiet_s(self) -> float:
        """The time since the last data in either direction, in seconds; 0 while data is on its way."""
        return 0.0 if self.unread or self.unsent else min(self.since_received_s, self.since_sent_s)


def connections(port: int) -> list[TcpConnection]:
    """Returns the open connections of a local port.

    Raises:
        OSError: the kernel does not list them.
    """
    return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _dump(family, port)]


def _dump(family: int, port: int) -> Iterator[TcpConnection]:
    request = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _OPEN)
    request += struct.pack("!H", port) + bytes(46)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asking:
        asking.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
        while True:
            for kind, body in _parts(asking.recv(_ANSWER_BYTES), _HEADER):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", body)[0], "the kernel does not list TCP connections")
                if struct.unpack_from("!H", body, 4)[0] == port:
                    yield _connection(body)


def _connection(body: bytes) -> TcpConnection:
    unread, unsent, _uid, inode = struct.unpack_from("=4I", body, 56)
    info = next(value for kind, value in _parts(body[_MESSAGE_BYTES:], struct.Struct("=HH")) if kind == _INFO)
    spoke_ms, _, heard_ms = struct.unpack_from("=3I", info, 44)
    sent, received = struct.unpack_from("=2Q", info, 120)
    pieces_received, pieces_sent = struct.unpack_from("=2I", info, 152)
    return TcpConnection(
        inode=inode,
        unread=unread,
        unsent=unsent,
        received=received,
        sent=sent,
        in_step=pieces_received == pieces_sent,
        since_received_s=heard_ms / 1000,
        since_sent_s=spoke_ms / 1000,
    )


def _parts(data: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Yields kind and content of consecutive netlink messages or attributes; both begin with length and kind."""
    while len(data) >= header.size:
        length, kind = header.unpack_from(data)[:2]
        yield kind, data[header.size : length]
        data = data[(length + 3) & ~3 :]
