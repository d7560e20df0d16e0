"""The options for a command's server: address, certificates, token and headers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitriton._console.paths import file_fault
from vitriton._errors import InvalidOption

if TYPE_CHECKING:
    from vitriton._client import Client
    from vitriton._wire.transport import Transport

DEFAULT_ADDRESS = "localhost:8001"

# The argument with which an error of the client begins, and the option that sets it.
_ARGUMENT = re.compile(r"(?:TLS: )?(address|addresses|tls|token|headers|\w+_file)\b:? ?")
_OPTIONS = {"addresses": "address", "token": "token_env", "headers": "header", "tls": "ca_file"}
# the groups of options in the help of the commands that ask a server
SERVER = "Server"
_ACCESS = "Access to the server"

URL = typer.Option(
    "--url",
    "--address",
    metavar="ADDRESS",
    help="The address of the Triton server: host:port for gRPC, or a grpc://, grpcs://, http:// or https:// URL.",
    rich_help_panel=SERVER,
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """The credentials that a command sends, and the certificates that it trusts.

    Attributes:
        ca_file: the CA certificates to trust (PEM), for grpcs:// and https://.
        cert_file: the client certificate (PEM).
        key_file: the private key of the client certificate (PEM).
        token_env: the environment variable that holds the bearer token.
        header: a header to send with each request; repeat the option for more headers.
    """

    ca_file: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_ACCESS)] = None
    cert_file: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_ACCESS)] = None
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_ACCESS)] = None
    token_env: Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_ACCESS)] = None
    header: Annotated[Sequence[str], typer.Option(metavar="'NAME: VALUE'", rich_help_panel=_ACCESS)] = ()

    def check(self) -> None:
        """Checks that the files are there.

        Raises:
            InvalidOption: a file cannot be read, or only one of certificate and key is given.
        """
        for name in ("ca_file", "cert_file", "key_file"):
            path = getattr(self, name)
            if path is not None and (fault := file_fault(path)) is not None:
                raise InvalidOption(name, fault)
        for name, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise InvalidOption(name, f"needs `{other}` as well; give the certificate and its key together")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The server that a command sends requests to.

    Attributes:
        address: the server's address, or several addresses separated by commas.
        access: the credentials, and the certificates to trust.
    """

    address: str
    access: Access = field(default_factory=Access)

    def check(self) -> None:
        """Checks the options without a request.

        Raises:
            InvalidOption: an option is invalid.
        """
        for transport in self.transports():
            transport.close()

    def client(self, **settings: Any) -> Client:
        """Makes a client; `settings` are its other arguments.

        Raises:
            InvalidOption: an option is invalid.
        """
        _silence_grpc()
        from vitriton._client import Client

        try:
            return Client(self.address, **self.connection(), **settings)
        except InvalidOption:
            raise
        except ValueError as exc:
            raise _refused(exc) from exc

    def transports(self) -> list[Transport]:
        """Makes a transport for each address; the caller closes them.

        Raises:
            InvalidOption: an option is invalid.
        """
        _silence_grpc()
        from vitriton._wire.connect import connect

        try:
            return connect(self.address, **self.connection())
        except InvalidOption:
            raise
        except ValueError as exc:
            raise _refused(exc) from exc

    def transport(self) -> Transport:
        """Makes the transport of the only server; the caller closes it.

        Raises:
            InvalidOption: an option is invalid, or there are several servers.
        """
        first, *others = self.transports()
        if others:
            for transport in (first, *others):
                transport.close()
            raise InvalidOption("address", f"{self.address} names several servers; give one of them")
        return first

    def connection(self) -> dict[str, Any]:
        """The arguments `tls`, `token` and `headers` of a client.

        Raises:
            InvalidOption: an option is invalid.
        """
        from vitriton._wire.connection import TLS

        given = self.access
        given.check()
        is_tls = given.ca_file or given.cert_file or given.key_file
        return {
            "tls": TLS(ca_file=given.ca_file, cert_file=given.cert_file, key_file=given.key_file) if is_tls else None,
            "token": self._token(),
            "headers": dict(_header(line) for line in given.header),
        }

    def _token(self) -> str | None:
        if self.access.token_env is None:
            return None
        token = os.environ.get(self.access.token_env, "").strip()
        if not token:
            raise InvalidOption(
                "token_env", f"{self.access.token_env} is empty: set the environment variable of that name"
            )
        return token


def _silence_grpc() -> None:
    """Silences gRPC's own log on stderr: the command's error says everything that matters.

    gRPC reads the variable on import.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise InvalidOption("header", f"{line!r} has no colon; write it like 'x-team: search'")
    return name.strip(), value.strip()


def _refused(error: ValueError) -> InvalidOption:
    """The error for a value that the client refuses, which names its own argument first."""
    found = _ARGUMENT.match(str(error))
    if found is None:
        return InvalidOption("", str(error))
    return InvalidOption(_OPTIONS.get(found[1], found[1]), str(error)[found.end() :])
