"""The socket of a command that serves over HTTP."""

from __future__ import annotations

import socket

from vitriton._console.failure import CommandFailed

_BACKLOG = 2048  # connections that wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """Opens a socket that listens.

    Args:
        host: the name or the address to listen on.
        port: the port; 0 is a free one.

    Raises:
        CommandFailed: the address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        # Connections take it over. asyncio sets it only for sockets that it makes itself, and without it an answer of
        # two parts waits for the caller's delayed acknowledgment.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise CommandFailed(
            f"{host} port {port} cannot be listened on: {reason}; choose another --host or --port"
        ) from exc


def url_of(listener: socket.socket) -> str:
    """The URL of a socket, without a slash at its end."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
