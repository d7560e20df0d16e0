"""Starts, pauses and calls the LitServe server of `litserve_app`."""

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from vitriton_bench._errors import BenchError

from report.rounds.speed import Sample, drive

_READY_S = 300.0
_POLL_S = 0.2
_CALL_S = 600.0
_ERROR_BYTES = 2000
_REPORTS = Path(__file__).parents[2]  # the folder of the package `report`

# Kills the server's process group when this process ends in any way, since its end of the pipe then closes.
_GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


class LitServe:
    """A server that runs during a `with` block.

    Args:
        model: the folder or hub id of the checkpoint.
        dtype: the dtype: "fp32", "bf16" or "fp16".
        pooling: the pooling of the embedding.
        batch: the most images in a batch.
    """

    def __init__(self, model: str, dtype: str, pooling: str, batch: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._command = [sys.executable, "-m", "report.sides.litserve_app"]
        self._command += [model, dtype, pooling, str(self._port), str(batch)]
        self._idle: list[http.client.HTTPConnection] = []

    def __enter__(self) -> LitServe:
        """Starts the server; `wait` returns when it is ready."""
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONPATH": str(_REPORTS)},
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
                raise BenchError(f"the LitServe server did not get ready; it said:\n{said}")
            time.sleep(_POLL_S)

    def pause(self) -> None:
        """Stops all its processes: LitServe's worker polls its queue a thousand times a second."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continues the stopped processes."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def embed(self, image: bytes) -> npt.NDArray[np.float32]:
        """Embeds an encoded image, (D,). Safe to call from several threads; connections are kept alive."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_CALL_S)
        try:
            answer = _post(connection, image)
        except (ConnectionError, http.client.RemoteDisconnected):  # the server closes idle connections
            connection.close()
            answer = _post(connection, image)
        content = answer.read()
        self._idle.append(connection)
        if answer.status != 200:
            raise BenchError(f"LitServe answered with status {answer.status}: {content[:300]!r}")
        return np.frombuffer(content, np.float32)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class Peer:
    """A LitServe server that is paused between measurements.

    Args:
        server: the running server.
        images: the encoded images.
    """

    def __init__(self, server: LitServe, images: Sequence[bytes]) -> None:
        self._server = server
        self._images = images
        server.wait()
        server.pause()

    def embed(self, images: Sequence[bytes]) -> npt.NDArray[Any]:
        """Embeds images, (N, D)."""
        with self._awake():
            return np.stack([self._server.embed(image) for image in images])

    def sample(self, callers: int, seconds: float) -> Sample:
        """Measures the speed for this number of callers, over HTTP."""
        with self._awake():
            return drive(self._server.embed, self._images, callers, seconds)

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        self._server.resume()
        try:
            yield
        finally:
            self._server.pause()


def _post(connection: http.client.HTTPConnection, image: bytes) -> http.client.HTTPResponse:
    connection.request("POST", "/predict", image, {"Content-Type": "application/octet-stream"})
    return connection.getresponse()
