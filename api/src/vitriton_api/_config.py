"""What `vitriton api` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from vitriton import Options
from vitriton._console.completion import served_names
from vitriton._console.options import faults
from vitriton._console.server import DEFAULT_ADDRESS, SERVER, URL, Access, ServerOptions
from vitriton._errors import InvalidOption

MIB = 1024 * 1024
_URL_TIMEOUT_S = 10.0
_ENDPOINT, _LIMITS = "Endpoint", "Limits"


@dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """The options of `vitriton api`.

    Attributes:
        model: the name of a model to serve; repeat the option for more. None: all models on the server.
        host: the host name or address of this machine to listen on; 0.0.0.0 or :: means all addresses.
        port: the port to listen on; 0 picks a free port.
        api_keys_file: the file with the keys that callers need, a line `name key` for each; it is read again when it
            changes.
        access_log: whether to print a line for each request on standard error, and not only for those that failed.
        fetch_urls: whether an image may be an http(s) URL, which the endpoint fetches; never from private networks.
        timeout_s: the longest time for the vectors of one request, including retries, in seconds.
        body_timeout_s: the longest time for the body of one request to arrive, in seconds.
        exit_timeout_s: the longest time for finishing running requests when the endpoint stops, in seconds.
        drain_s: the time at the start of a stop in which requests are still taken while /health/ready says 503, in
            seconds.
        max_in_flight: the largest number of requests that are answered at a time; more get 429 at once. Four times as
            many bodies may be arriving.
        max_inputs: the largest number of images and texts in one request.
        max_image_bytes: the largest size of one image, in bytes.
        max_body_bytes: the largest size of one request's body, in bytes.
        max_held_bytes: the largest size of all requests' bodies together, in bytes; the process needs four times this
            much memory, and that of the program itself.
        access: the credentials for Triton, and the certificates to trust.
    """

    url: Annotated[str, URL] = DEFAULT_ADDRESS
    model: Annotated[
        Sequence[str], typer.Option(metavar="NAME", rich_help_panel=SERVER, autocompletion=served_names)
    ] = ()
    host: Annotated[str, typer.Option(metavar="HOST", rich_help_panel=_ENDPOINT)] = "127.0.0.1"
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, rich_help_panel=_ENDPOINT)] = 8080
    api_keys_file: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_ENDPOINT)] = None
    access_log: Annotated[bool, typer.Option(rich_help_panel=_ENDPOINT)] = False
    fetch_urls: Annotated[bool, typer.Option(rich_help_panel=_ENDPOINT)] = False
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="SECONDS", rich_help_panel=_LIMITS)] = 30.0
    body_timeout_s: Annotated[float, typer.Option("--body-timeout", metavar="SECONDS", rich_help_panel=_LIMITS)] = 60.0
    exit_timeout_s: Annotated[float, typer.Option("--exit-timeout", metavar="SECONDS", rich_help_panel=_LIMITS)] = 30.0
    drain_s: Annotated[float, typer.Option("--drain", metavar="SECONDS", rich_help_panel=_LIMITS)] = 0.0
    max_in_flight: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_LIMITS)] = 64
    max_inputs: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_LIMITS)] = 2048
    max_image_bytes: Annotated[int, typer.Option(metavar="N", min=1, max=1024 * MIB, rich_help_panel=_LIMITS)] = (
        32 * MIB
    )
    max_body_bytes: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_LIMITS)] = 64 * MIB
    max_held_bytes: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_LIMITS)] = 256 * MIB
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for option, wrong in faults(self):
            raise InvalidOption(option, wrong)
        for name in ("timeout_s", "body_timeout_s"):
            if not getattr(self, name) > 0:
                raise InvalidOption(name, f"is {getattr(self, name):g}; it must be a number of seconds above 0")
        for name in ("exit_timeout_s", "drain_s"):
            if not getattr(self, name) >= 0:
                raise InvalidOption(name, f"is {getattr(self, name):g}; it must be a number of seconds, 0 or more")
        if self.max_body_bytes > self.max_held_bytes:
            text = f"is {self.max_body_bytes}, above `max_held_bytes` ({self.max_held_bytes})"
            raise InvalidOption("max_body_bytes", text)

    @property
    def server(self) -> ServerOptions:
        """The server that embeds."""
        return ServerOptions(address=self.url, access=self.access)

    @property
    def client_options(self) -> Options:
        """The options of the clients: they open no files for a caller, and no private network."""
        return Options(
            refuse_paths=True,
            refuse_private_addresses=True,
            max_image_bytes=self.max_image_bytes,
            # Of one request with URLs, no more is held than of one with images
            max_held_bytes=max(self.max_image_bytes, self.max_body_bytes),
            url_timeout_s=min(_URL_TIMEOUT_S, self.timeout_s / 2),
        )
