"""The process of the page: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import uvicorn
from starlette.types import ASGIApp
from vitriton._console.signals import ENDING

_CONNECTIONS = 256  # at a time; more get 503
_EXIT_S = 3  # for running answers at the end


def is_loopback(listener: socket.socket) -> bool:
    """Whether a socket is reached from this machine alone."""
    return ip_address(listener.getsockname()[0]).is_loopback


def run(app: ASGIApp, listener: socket.socket) -> None:
    """Answers until a signal."""
    _Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_EXIT_S,
        )
    ).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, with a stop that is no error of the command."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to `startup`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and takes the signals that end a command."""
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, setattr, self, "should_exit", True)
        await super().startup(sockets)
