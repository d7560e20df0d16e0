"""A peer's server: its processes, which are paused between measurements, and the calls to it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self
from vitriton_bench._errors import BenchError

from report.rounds.speed import Sample, drive

T = TypeVar("T")

_READY_S = 300.0
_POLL_S = 0.2
_CALL_S = 600.0
_ERROR_BYTES = 2000

# Kills the server's process group when this process ends in any way, since its end of the pipe then closes.
_GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class PeerServer(ABC, Generic[T]):
    """A server that runs during a `with` block, and embeds inputs of one type.

    Args:
        name: the name of the server, for messages.
        command: the command that starts it.
        port: the port that it listens on.
        environment: the variables that it gets beside those of this process.
    """

    def __init__(self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str]) -> None:
        self._name = name
        self._command = list(command)
        self._port = port
        self._environment = {**os.environ, **environment}
        self._idle: list[http.client.HTTPConnection] = []

    @abstractmethod
    def embed(self, data: T) -> npt.NDArray[np.float32]:
        """Embeds an input, (D,). Safe to call from several threads; connections are kept alive."""

    def __enter__(self) -> Self:
        """Starts the server; `wait` returns when it is ready."""
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the server and all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for connection in self._idle:
            connection.close()
        self._guard.communicate()
        self._log.close()

    def wait(self) -> None:
        """Waits until the server answers.

        Raises:
            BenchError: the server has ended, or is not ready in time.
        """
        deadline = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(max(self._log.tell() - _ERROR_BYTES, 0))
                said = self._log.read().decode(errors="replace").strip()
                raise BenchError(f"the {self._name} server did not get ready; it said:\n{said}")
            time.sleep(_POLL_S)

    def pause(self) -> None:
        """Stops all its processes: some poll their queue a thousand times a second."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continues the stopped processes."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def post(self, path: str, body: bytes, content_type: str) -> bytes:
        """Sends a request and returns the body of the answer.

        Raises:
            BenchError: the status is not 200.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_CALL_S)
        headers = {"Content-Type": content_type}
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):  # the server closes idle connections
            connection.close()
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
        content = answer.read()
        self._idle.append(connection)
        if answer.status != 200:
            raise BenchError(f"{self._name} answered with status {answer.status}: {content[:300]!r}")
        return content

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class Peer(Generic[T]):
    """A peer's server that is paused between measurements.

    Args:
        server: the running server.
        inputs: the encoded images, or the texts.
    """

    def __init__(self, server: PeerServer[T], inputs: Sequence[T]) -> None:
        self._server = server
        self._inputs = inputs
        server.wait()
        server.pause()

    def embed(self, inputs: Sequence[T]) -> npt.NDArray[Any]:
        """Embeds inputs one by one, (N, D)."""
        with self._awake():
            return np.stack([self._server.embed(each) for each in inputs])

    def sample(self, callers: int, seconds: float) -> Sample:
        """Measures the speed for this number of callers, over HTTP."""
        with self._awake():
            return drive(self._server.embed, self._inputs, callers, seconds)

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        self._server.resume()
        try:
            yield
        finally:
            self._server.pause()
