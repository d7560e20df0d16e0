"""Waits until a started tritonserver answers on all of its ports."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from vitriton_server._config import ServerConfig
from vitriton_server._errors import NotReadyInTime, ServerStopped
from vitriton_server._process.failure import last_lines, start_failure
from vitriton_server._process.log import MAX_LINES
from vitriton_server._process.memory import MemoryWatch
from vitriton_server._process.ports import Endpoints
from vitriton_server._process.tritonserver import TritonProcess

if TYPE_CHECKING:
    from vitriton_server._watch.probe import Probe

_POLL_S = 0.1
_CONNECT_S = 1.0


def wait_until_ready(
    process: TritonProcess,
    probe: Probe,
    config: ServerConfig,
    endpoints: Endpoints,
    stopping: threading.Event,
    memory: MemoryWatch,
) -> None:
    """Waits until every model is ready and every port is open.

    Raises:
        NotReadyInTime: loading took longer than `ready_timeout_s`.
        ServerStopped: `stopping` was set meanwhile.
        LauncherError: tritonserver has ended; the class and the text say why.
    """
    deadline = time.monotonic() + config.ready_timeout_s
    while not (probe.is_ready() and _listens(config, endpoints)):
        ended = process.ended.wait(_POLL_S)
        if stopping.is_set():
            raise ServerStopped("the server was stopped before it was ready")
        if ended:
            status = process.exit_status
            raise start_failure(process.log.last(MAX_LINES), status, memory.verdict(status))
        if time.monotonic() > deadline:
            raise NotReadyInTime(
                f"the models in {config.repository} were not ready within {config.ready_timeout_s:g} s; allow more "
                "with --ready-timeout (ready_timeout_s)",
                last_lines(process.log.last(MAX_LINES)),
            )


def _listens(config: ServerConfig, endpoints: Endpoints) -> bool:
    """Whether HTTP and metrics accept connections: Triton opens them after gRPC reports that it is ready."""
    ports = {"http": endpoints.http_port, "metrics": endpoints.metrics_port}
    switched_off = {name for name in ports if f"--allow-{name}" in " ".join(config.triton_arguments)}
    for name in ports.keys() - switched_off:
        host = endpoints.address(ports[name]).rpartition(":")[0].strip("[]")
        try:
            socket.create_connection((host, ports[name]), _CONNECT_S).close()
        except OSError:
            return False
    return True
