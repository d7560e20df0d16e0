"""The TCP connections of a port, and what has last been said on each, as the kernel tells any user (sock_diag(7))."""

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
    """One connection, seen from the server.

    Attributes:
        inode: names its socket, as in the links of /proc/PID/fd.
        unread: bytes that the server has not read yet.
        unsent: bytes that the client has not confirmed yet.
        received: bytes that the client has ever sent.
        sent: bytes of the server that the client has ever confirmed.
        in_step: whether server and client have sent as many pieces, as after one answer for each short request.
        heard_s: seconds since the client has sent any.
        spoke_s: seconds since the server has. The kernel counts both in ticks of 1 to 10 ms.
    """

    inode: int
    unread: int
    unsent: int
    received: int
    sent: int
    in_step: bool
    heard_s: float
    spoke_s: float

    @property
    def quiet_s(self) -> float:
        """Seconds since anything went over it, in either direction; 0 while something is on its way."""
        return 0.0 if self.unread or self.unsent else min(self.heard_s, self.spoke_s)


def connections(port: int) -> list[TcpConnection]:
    """The open connections of a local port.

    Raises:
        OSError: the kernel does not tell.
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
        heard_s=heard_ms / 1000,
        spoke_s=spoke_ms / 1000,
    )


def _parts(data: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each netlink message, or attribute, in a row of them; both begin with length and kind."""
    while len(data) >= header.size:
        length, kind = header.unpack_from(data)[:2]
        yield kind, data[header.size : length]
        data = data[(length + 3) & ~3 :]
