"""The process of the endpoint: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import typer
import uvicorn
from vitriton._console.listening import listen, url_of
from vitriton._console.signals import ENDING

from vitriton_api._app import Endpoint
from vitriton_api._config import ApiOptions
from vitriton_api._keys import Keys
from vitriton_api._models import Upstream


def run(options: ApiOptions, keys: Keys | None) -> int:
    """Serves until a signal; returns the exit code: 1 if a request was cut off.

    Raises:
        CommandFailed: the address cannot be listened on.
    """
    upstream = Upstream(
        address=options.url,
        names=options.model,
        connection=options.server.connection(),
        options=options.client_options,
        timeout_s=options.timeout_s,
    )
    logging.getLogger("vitriton.api").setLevel(logging.INFO)
    endpoint = Endpoint(options, upstream, keys)
    with contextlib.closing(listen(options.host, options.port)) as listener:
        server = _Server(endpoint, options)
        typer.echo(f"endpoint  {url_of(listener)}/v1")
        if keys is None and not ip_address(listener.getsockname()[0]).is_loopback:
            typer.echo(
                "warning: whoever reaches this address can use it: there are no keys (--api-keys-file)", err=True
            )
        server.run(sockets=[listener])
    if endpoint.cut_off:
        within = f"in {options.exit_timeout_s:g} s (--exit-timeout)"
        typer.echo(f"error: not all requests were answered {within}: {endpoint.cut_off} left", err=True)
    return int(endpoint.cut_off > 0)


class _Server(uvicorn.Server):
    """uvicorn, with a stop that is announced first."""

    def __init__(self, endpoint: Endpoint, options: ApiOptions) -> None:
        super().__init__(
            uvicorn.Config(
                endpoint.app,
                http="httptools",
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=options.exit_timeout_s,  # type: ignore[arg-type]  # fractions work, too
            )
        )
        self._endpoint = endpoint
        self._drain_s = options.drain_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to `startup`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and takes the signals that end a command."""
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._stop)
        await super().startup(sockets)

    def _stop(self) -> None:
        """Announces the stop, which begins when the time for that is over; a second signal begins it at once."""
        if self._endpoint.draining:
            self.should_exit = True
            return
        self._endpoint.draining = True
        asyncio.get_running_loop().call_later(self._drain_s, setattr, self, "should_exit", True)
