"""Ends a Triton that is shutting down as soon as nothing is in flight.

Triton waits for HTTP connections, not for requests: if one client keeps an idle connection open, it waits for its whole
exit timeout, and then cuts off gRPC requests in flight. So idle connections are closed here, one by one.

Triton's HTTP server makes this safe. It does not read from a connection while its inference is in flight, and sees the
end of the stream only after it has written the response. So such a connection may be shut for reading at any time. On
one that is read, a request may be on its way: the kernel shows which side sent last.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

from vitriton_server._drain.connections import TcpConnection, connections
from vitriton_server._drain.debugger import sockets, stop_reading
from vitriton_server._process.ports import Endpoints
from vitriton_server._process.tritonserver import TritonProcess
from vitriton_server._watch.steps import has_steps

_LOG = logging.getLogger("vitriton_server")

IDLE_S = 0.5  # a client takes less from connecting, or from "100 Continue", to its first byte
UNCLEAR_S = 1.0  # a response within one kernel tick, or perhaps the first bytes of an upload after it
STALLED_S = 5.0  # part of a request, with nothing more to come
FLUSH_S = 0.5  # for responses that gRPC has not yet begun to write
QUIET_S = 1.0  # no more of a response is being written
_EPOLLIN = 0x001


def may_be_shut(connection: TcpConnection, *, is_read: bool) -> bool:
    """Whether no request is on its way over an HTTP connection: shutting it for reading can lose nothing else.

    Args:
        connection: the state of the connection in the kernel.
        is_read: whether Triton is reading from it; it is not while an inference is in flight.
    """
    if connection.unread or connection.unsent:
        return False
    if not is_read:
        return True
    return connection.quiet_s >= _patience_s(connection)


def drain(
    process: TritonProcess, endpoints: Endpoints, timeout_s: float, kind: tuple[str, bool], *, traces: bool
) -> bool:
    """Ends a Triton, and waits until it has ended.

    Args:
        process: the process of tritonserver.
        endpoints: the addresses on which it listens.
        timeout_s: the time for requests in flight, in seconds.
        kind: the version of Triton, and whether all of its backends compute in separate processes.
        traces: whether it has traces to send, which it does at the very end.

    Returns:
        Whether every accepted request has been answered.
    """
    version, only_python = kind

    def has_answered() -> bool:
        # By then its queues are empty. A running request holds its model, and so does an idle stream; newer Tritons
        # have waited for gRPC requests before, and in others Python steps end only after their last request.
        if not process.has_stopped.is_set():
            return False
        return _waits_for_grpc(version) or (only_python and not has_steps(process.pid))

    ending = Drain(process.pid, endpoints, has_answered)
    return process.terminate(timeout_s, lambda: ending.look() and not traces)


class Drain:
    """The shutdown of one Triton.

    Args:
        pid: the process id of tritonserver.
        endpoints: the addresses on which it listens.
        has_answered: the function that says whether all inferences are computed and new ones are refused.
    """

    def __init__(self, pid: int, endpoints: Endpoints, has_answered: Callable[[], bool]) -> None:
        self._pid, self._endpoints, self._has_answered = pid, endpoints, has_answered
        self._answered_s: float | None = None
        self._shut: set[int] = set()
        self._may_look = self._may_shut = True

    def look(self) -> bool:
        """Closes idle connections; returns whether all requests are answered and all Python steps have ended."""
        try:
            return self._may_look and self._look()
        except (FileNotFoundError, ProcessLookupError):  # Triton has ended
            return False
        except OSError as exc:
            self._may_look = False
            self._warn("", exc)
            return False

    def _look(self) -> bool:
        is_done = self._is_done()  # checked first: the code below sees what is written after that
        http, grpc = self._open(self._endpoints.http_port), self._open(self._endpoints.grpc_port)
        read = _read_sockets(self._pid)
        idle = {each.inode for each in http if may_be_shut(each, is_read=each.inode in read)}
        if is_done:
            idle |= {each.inode for each in grpc if each.quiet_s >= QUIET_S}
        if self._may_shut and idle - self._shut:
            self._end(idle - self._shut)
        return is_done and not has_steps(self._pid) and all(each.quiet_s >= QUIET_S for each in http + grpc)

    def _is_done(self) -> bool:
        """Whether the last inference ended long enough ago for its response to be on its way to the client."""
        if self._answered_s is None and self._has_answered():
            self._answered_s = time.monotonic()
        return self._answered_s is not None and time.monotonic() - self._answered_s >= FLUSH_S

    def _open(self, port: int) -> list[TcpConnection]:
        own = sockets(self._pid)
        return [each for each in connections(port) if each.inode in own]

    def _end(self, idle: Collection[int]) -> None:
        try:
            self._shut |= stop_reading(self._pid, idle)
        except OSError as exc:
            self._may_shut = False
            if self._answered_s is None:  # else nothing waits for them
                self._warn(f"{len(idle)} ", exc)

    def _warn(self, count: str, exc: OSError) -> None:
        _LOG.warning(
            "%sidle connections cannot be closed from here (%s): Triton waits for its clients to do so "
            '("Stopping" in the documentation)',
            count,
            exc,
        )


def _patience_s(connection: TcpConnection) -> float:
    """Returns the silence, in seconds, after which nothing can be on its way on a connection that is read."""
    if not connection.received or connection.since_sent_s < connection.since_received_s:  # unused, or answered
        return IDLE_S
    if connection.sent and connection.since_sent_s == connection.since_received_s and connection.in_step:
        return UNCLEAR_S
    return STALLED_S


def _waits_for_grpc(version: str) -> bool:
    parts = version.split(".")
    return len(parts) > 1 and all(part.isdigit() for part in parts[:2]) and (int(parts[0]), int(parts[1])) >= (2, 59)


def _read_sockets(pid: int) -> set[int]:
    """Returns the sockets that a process waits to read from."""
    folder = Path(f"/proc/{pid}")
    polled: set[int] = set()
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if str(link.readlink()) == "anon_inode:[eventpoll]":
                polled |= _polled(folder.joinpath("fdinfo", link.name).read_text())
    return {inode for inode, fd in sockets(pid).items() if fd in polled}


def _polled(text: str) -> set[int]:
    """Returns the file descriptors that an epoll waits to read; proc(5) has the lines `tfd: 5 events: 1 data: ...`."""
    lines = [line.split() for line in text.splitlines() if line.startswith("tfd:")]
    return {int(fields[1]) for fields in lines if int(fields[3], 16) & _EPOLLIN}
