"""Lets the instances of a model share the session of the first. Needs nothing but the standard library.

Triton runs each instance in a process of its own. The first instance has the session; the others pass their batches on
to it, over a socket, and wait. So an instance can hold the next batch while a batch is computed, and the memory of the
weights is needed once. The native backend has no such thing, and ignores the parameter of the model.

The sockets are abstract ones, which vanish with their process, however it ends. Each side checks the other's user.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

Compute = Callable[..., Any]

_CONNECT_S = 60.0  # for the first instance's process to start; all are started at the same time
_FAILED_S = 5.0  # for the other instances to hear that the first cannot load the model
_BETWEEN_S = 0.02  # two attempts to connect; nothing tells when a socket of a name is there
_NAMES = 8  # while a model is loaded again, the instances before it still have the first name
_ENDED = "the model's first instance, which has the session, has ended"
_CREDENTIALS = struct.Struct("3i")  # of SO_PEERCRED: process, user, group


class OwnerGoneError(Exception):
    """The instance with the session has ended, or could not load the model."""


def shared_name(graph: Path, instance: str) -> tuple[str, int]:
    """Returns a name for the instances that can share a session, and the number of this one.

    Args:
        graph: the path of the graph.
        instance: Triton's name of the instance: that of its group, and its number.
    """
    group, _, number = instance.rpartition("_")
    status, parent = graph.stat(), os.getppid()
    started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    identity = (Path("/proc/self/ns/pid").readlink(), parent, started, group, graph, status.st_ino, status.st_mtime_ns)
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32], int(number)


class Owner:
    """Computes the batches of all instances, one after another. The other instances may connect before it can.

    Args:
        name: the name that the instances share.
    """

    def __init__(self, name: str) -> None:
        self._listener = _listen(name)
        self._lock = threading.Lock()
        self._compute: Compute | None = None
        self._decided = threading.Event()  # whether it can compute
        self._told = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def __call__(self, *batch: Any) -> Any:
        """Computes a batch when those before it are computed."""
        assert self._compute is not None
        with self._lock:
            return self._compute(*batch)

    def start(self, compute: Compute) -> None:
        """Computes from now on with a function."""
        self._compute = compute
        self._decided.set()

    def fail(self, others: int) -> None:
        """Tells the other instances that there is no session, so that they do not wait for one.

        Args:
            others: the number of other instances, which are being started.
        """
        self._decided.set()
        end = time.monotonic() + _FAILED_S
        for _ in range(others):
            self._told.acquire(timeout=max(0.0, end - time.monotonic()))
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection = self._listener.accept()
                if _same_user(connection):
                    threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
                else:
                    connection.close()

    def _serve(self, connection: Connection) -> None:
        self._decided.wait()
        with connection, suppress(EOFError, OSError):  # the other instance has ended
            if self._compute is not None:
                connection.send(True)
                while True:
                    connection.send(self(*connection.recv()))
        self._told.release()


class Borrower:
    """Has the batches of an instance computed by the owner of the session.

    Args:
        name: the name that the instances share.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._connection: Connection | None = None

    def wait(self) -> None:
        """Returns when the owner can compute.

        Raises:
            OwnerGoneError: it does not start, or cannot load the model.
        """
        end = time.monotonic() + _CONNECT_S
        while (connection := _connect(self._name)) is None:
            if time.monotonic() > end:
                raise OwnerGoneError("the model's first instance, which has the session, does not start")
            time.sleep(_BETWEEN_S)
        self._connection = _ready(connection)

    def __call__(self, *batch: Any) -> Any:
        """Has a batch computed.

        Raises:
            OwnerGoneError: the owner has ended. The launcher then ends Triton, as for any process of a model.
        """
        if self._connection is not None:
            with suppress(OwnerGoneError):
                return self._ask(self._connection, batch)
        self._connection = None
        if (connection := _connect(self._name)) is None:
            raise OwnerGoneError(_ENDED)
        self._connection = _ready(connection)
        return self._ask(self._connection, batch)

    def _ask(self, connection: Connection, batch: tuple[Any, ...]) -> Any:
        try:
            connection.send(batch)
            return connection.recv()
        except (EOFError, OSError):
            raise OwnerGoneError(_ENDED) from None


def _listen(name: str) -> Listener:
    for address in _addresses(name):
        with suppress(OSError):  # the address is that of the instances that these replace
            return Listener(address, family="AF_UNIX", backlog=64)
    raise OSError(f"{_NAMES} other processes serve the same file of the same model")


def _connect(name: str) -> Connection | None:
    for address in _addresses(name):
        with suppress(OSError):
            connection = Client(address, family="AF_UNIX")
            if _same_user(connection):
                return connection
            connection.close()
    return None


def _addresses(name: str) -> list[str]:
    return [f"\0vitriton-session-{name}-{number}" for number in range(_NAMES)]


def _ready(connection: Connection) -> Connection:
    try:
        connection.recv()
    except (EOFError, OSError):
        raise OwnerGoneError(_ENDED) from None
    return connection


def _same_user(connection: Connection) -> bool:
    """Whether the process at the other end belongs to this process's user; pickles of another user are code."""
    with socket.socket(fileno=os.dup(connection.fileno())) as copy:
        credentials = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.getuid())
