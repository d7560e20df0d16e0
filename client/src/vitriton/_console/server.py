"""The options that say which server a command talks to, and how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitriton._errors import InvalidOption

if TYPE_CHECKING:
    from vitriton._client import Client
    from vitriton._wire.transport import Transport

DEFAULT_ADDRESS = "localhost:8001"

Url = Annotated[
    str,
    typer.Option(
        "--url",
        "--address",
        help="Triton: host:port (gRPC), or with grpc://, grpcs://, http:// or https:// before it.",
    ),
]
CaFile = Annotated[Path | None, typer.Option(help="Certificates to trust (PEM), for grpcs:// and https://.")]
CertFile = Annotated[Path | None, typer.Option(help="This client's certificate (PEM).")]
KeyFile = Annotated[Path | None, typer.Option(help="The certificate's private key (PEM).")]
TokenEnv = Annotated[
    str | None, typer.Option(metavar="NAME", help="Environment variable that holds a token to send as `Bearer`.")
]
Header = Annotated[
    list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Sent with each request; may be repeated.")
]


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a command's requests go.

    Attributes:
        address: one, or several with commas between them.
        ca_file: of TLS, as the two that follow.
        cert_file: see `vitriton.TLS`.
        key_file: see `vitriton.TLS`.
        token_env: environment variable that holds a token.
        header: lines `name: value`.
    """

    address: str
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token_env: str | None = None
    header: Sequence[str] | None = None

    def client(self, **settings: Any) -> Client:
        """A client; `settings` are further parameters of it.

        Raises:
            InvalidOption: an option cannot be used.
        """
        _silence_grpc()
        from vitriton._client import Client

        try:
            return Client(self.address, **self._connection(), **settings)
        except ValueError as exc:
            raise InvalidOption(str(exc)) from exc

    def transports(self) -> list[Transport]:
        """A transport to each address; to be closed by the caller.

        Raises:
            InvalidOption: an option cannot be used.
        """
        _silence_grpc()
        from vitriton._wire.connect import connect

        try:
            return connect(self.address, **self._connection())
        except ValueError as exc:
            raise InvalidOption(str(exc)) from exc

    def _connection(self) -> dict[str, Any]:
        from vitriton._wire.connection import TLS

        is_tls = self.ca_file or self.cert_file or self.key_file
        return {
            "tls": TLS(ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file) if is_tls else None,
            "token": self._token(),
            "headers": dict(_header(line) for line in self.header or ()),
        }

    def _token(self) -> str | None:
        if self.token_env is None:
            return None
        token = os.environ.get(self.token_env, "").strip()
        if not token:
            raise InvalidOption(f"--token-env: the environment variable {self.token_env} is empty or not set")
        return token


def _silence_grpc() -> None:
    """Keeps off stderr what gRPC logs there by itself: all that matters of it is in the command's own error.

    gRPC reads the variable when it is imported.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise InvalidOption(f"--header {line!r} has no colon; write it like 'x-team: search'")
    return name.strip(), value.strip()
