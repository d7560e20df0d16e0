"""How a Triton that has been told to end comes to its end as soon as nothing is in flight.

Triton waits for HTTP connections, not for requests: for its whole exit timeout where one client keeps an idle
connection open, and then it cuts off what is in flight over gRPC. So idle connections are ended here, one by one.

What makes that safe is how Triton's HTTP server works. It does not read from a connection while an inference of it is
in flight, and finds the end of what the client sends only after the answer has been written. So such a connection may
be shut for reading at any time. On one that is read, a request may be on its way: the kernel tells who spoke last.
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

IDLE_S = 0.5  # longer than a client takes from its connection, or from "100 Continue", to its first byte
UNCLEAR_S = 1.0  # answered within one tick of the kernel, or perhaps the first bytes of an upload right after that
STALLED_S = 5.0  # half a request, of which nothing more comes
FLUSH_S = 0.5  # for answers that Triton has and gRPC has not yet begun to write
QUIET_S = 1.0  # no part of an answer is written any more
_EPOLLIN = 0x001


def may_be_shut(connection: TcpConnection, *, is_read: bool) -> bool:
    """Whether no request is on its way over an HTTP connection, which is all that shutting it for reading can lose.

    Args:
        connection: what the kernel tells of it.
        is_read: whether Triton waits for the client to send; it does not while an inference is in flight.
    """
    if connection.unread or connection.unsent:
        return False
    if not is_read:
        return True
    return connection.quiet_s >= _patience_s(connection)


def _patience_s(connection: TcpConnection) -> float:
    """How long nothing must have been said on a connection that is read, for nothing to be on its way."""
    if not connection.received or connection.spoke_s < connection.heard_s:  # not used yet, or answered
        return IDLE_S
    if connection.sent and connection.spoke_s == connection.heard_s and connection.in_step:
        return UNCLEAR_S
    return STALLED_S


def drain(
    process: TritonProcess, endpoints: Endpoints, timeout_s: float, kind: tuple[str, bool], *, traces: bool
) -> bool:
    """Tells a Triton to end, and waits until it has.

    Args:
        process: that runs it.
        endpoints: where it listens.
        timeout_s: what it has for requests in flight.
        kind: Triton's version, and whether all of its backends compute in processes of their own.
        traces: whether it has traces to send, which it does at its very end.

    Returns:
        Whether every request that it had taken has been answered.
    """
    version, only_python = kind

    def has_answered() -> bool:
        # By then its queues are empty. A request that is computed holds its model, and so does a stream that is idle;
        # a newer Triton has waited for gRPC's requests before, and in others Python steps end only after their last.
        if not process.has_stopped.is_set():
            return False
        return _waits_for_grpc(version) or (only_python and not has_steps(process.pid))

    ending = Drain(process.pid, endpoints, has_answered)
    return process.terminate(timeout_s, lambda: ending.look() and not traces)


def _waits_for_grpc(version: str) -> bool:
    parts = version.split(".")
    return len(parts) > 1 and all(part.isdigit() for part in parts[:2]) and (int(parts[0]), int(parts[1])) >= (2, 59)


class Drain:
    """One Triton on its way to its end.

    Args:
        pid: of tritonserver.
        endpoints: where it listens.
        has_answered: whether all inferences have been computed, and new ones are refused.
    """

    def __init__(self, pid: int, endpoints: Endpoints, has_answered: Callable[[], bool]) -> None:
        self._pid, self._endpoints, self._has_answered = pid, endpoints, has_answered
        self._answered_s: float | None = None
        self._shut: set[int] = set()
        self._may_look = self._may_shut = True

    def look(self) -> bool:
        """Ends idle connections; returns whether nothing is left to answer, and no Python step to end."""
        try:
            return self._may_look and self._look()
        except (FileNotFoundError, ProcessLookupError):  # Triton has ended
            return False
        except OSError as exc:
            self._may_look = False
            self._warn("", exc)
            return False

    def _look(self) -> bool:
        is_done = self._is_done()  # asked first: what is written after that is seen below
        http, grpc = self._open(self._endpoints.http_port), self._open(self._endpoints.grpc_port)
        read = _read_sockets(self._pid)
        idle = {each.inode for each in http if may_be_shut(each, is_read=each.inode in read)}
        if is_done:
            idle |= {each.inode for each in grpc if each.quiet_s >= QUIET_S}
        if self._may_shut and idle - self._shut:
            self._end(idle - self._shut)
        return is_done and not has_steps(self._pid) and all(each.quiet_s >= QUIET_S for each in http + grpc)

    def _is_done(self) -> bool:
        """Whether the last inference was computed so long ago that its answer is on its way to the client."""
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
            if self._answered_s is None:  # else nobody waits for them
                self._warn(f"{len(idle)} ", exc)

    def _warn(self, count: str, exc: OSError) -> None:
        _LOG.warning(
            "%sidle connections cannot be closed from here (%s): Triton waits for its clients to do so "
            "(docs/operations.md, Stopping)",
            count,
            exc,
        )


def _read_sockets(pid: int) -> set[int]:
    """The sockets that a process waits to read from."""
    folder = Path(f"/proc/{pid}")
    polled: set[int] = set()
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if str(link.readlink()) == "anon_inode:[eventpoll]":
                polled |= _polled(folder.joinpath("fdinfo", link.name).read_text())
    return {inode for inode, fd in sockets(pid).items() if fd in polled}


def _polled(text: str) -> set[int]:
    """The file descriptors that an epoll waits to read from; see proc(5) for the lines `tfd: 5 events: 1 data: ...`."""
    lines = [line.split() for line in text.splitlines() if line.startswith("tfd:")]
    return {int(fields[1]) for fields in lines if int(fields[3], 16) & _EPOLLIN}
