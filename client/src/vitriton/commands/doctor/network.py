"""The network of this machine: who listens on Triton's ports, and which proxies are set."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from vitriton._console.diagnosis import Finding, without_secrets
from vitriton._console.server import ServerOptions

_HOST = "127.0.0.1"
_PORTS = {"gRPC": 8001, "HTTP": 8000, "metrics": 8002}  # Triton's own
_SCHEMES = {"gRPC": "grpc", "HTTP": "http"}
_CONNECT_S = 0.5
_ANSWER_S = 2.0
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_EXCEPTIONS = "no_proxy"


def findings() -> Iterator[Finding]:
    """Finds the facts of the network."""
    for service, port in _PORTS.items():
        yield Finding(f"port {port} ({service})", listener(service, port))
    for name in sorted(os.environ):
        if name.lower() in _PROXIES:
            yield Finding(name, without_secrets(os.environ[name]))
        elif name.lower() == _EXCEPTIONS:
            yield Finding(name, os.environ[name])


def listener(service: str, port: int) -> str:
    """Says who listens on a port of this machine.

    Args:
        service: the service that Triton has there: gRPC, HTTP or metrics.
        port: the number of the port.
    """
    try:
        socket.create_connection((_HOST, port), _CONNECT_S).close()
    except ConnectionRefusedError:
        return "free"
    except OSError as exc:
        return f"unknown ({exc.strerror or type(exc).__name__})"
    if service not in _SCHEMES:
        return "something listens"
    return _server(f"{_SCHEMES[service]}://{_HOST}:{port}") or "another program listens"


def _server(address: str) -> str | None:
    """The name and the version of the server at an address; None if none answers."""
    from vitriton._wire.transport import CallError

    transport = ServerOptions(address=address).transports()[0]
    try:
        server = transport.server_metadata(_ANSWER_S)
    except CallError:
        return None
    finally:
        transport.close()
    return f"{server.name} {server.version} answers"
