"""How a client gets to its servers: TLS, and what goes with every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Token = str | Callable[[], str]

_RESERVED = ("authorization", "content-type", "content-length", "host", "te", "user-agent")


@dataclass(frozen=True, kw_only=True)
class TLS:
    """How grpcs:// and https:// check the server, and show who the client is. Files are PEM.

    Attributes:
        ca_file: certificates that the server's must lead to; None takes those of the system (HTTP) or of gRPC.
        cert_file: this client's certificate chain; None where the server does not ask for one.
        key_file: the private key to cert_file, without a password.
        server_name: that the server's certificate must be for; None is the host of the address.
    """

    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Checks that the files belong together and can be read.

        Raises:
            ValueError: only one of cert_file and key_file is given, or a file cannot be read.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("TLS needs cert_file and key_file together: a certificate is shown with its key")
        for name in ("ca_file", "cert_file", "key_file"):
            self.read(name)

    def read(self, name: str) -> bytes | None:
        """The content of one of the files; None where it is not given.

        Raises:
            ValueError: it cannot be read.
        """
        path = getattr(self, name)
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as exc:
            raise ValueError(f"TLS: {name} {path} cannot be read: {exc.strerror or exc}") from exc


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """What all transports of a client share.

    Attributes:
        tls: for grpcs:// and https://.
        token: sent as `authorization: Bearer <token>`; a function is called for each request.
        headers: sent with each request, names in lower case.
        grpc_options: of the channel, over the client's own.
        max_connections: of an HTTP transport, which is also its requests at a time.
    """

    tls: TLS = field(default_factory=TLS)
    token: Token | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    grpc_options: Mapping[str, Any] = field(default_factory=dict)
    max_connections: int = 64

    def request_headers(self, extra: Mapping[str, str]) -> list[tuple[str, str]]:
        """Everything that goes with one request, `extra` included; names in lower case."""
        headers = {**self.headers, **extra}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self._token_now()}"
        return list(headers.items())

    def _token_now(self) -> str:
        if not callable(self.token):
            return self.token or ""
        token = self.token()
        if not isinstance(token, str) or not token:
            raise TypeError(f"it returned {'no text' if token else 'nothing'} ({type(token).__name__})")
        return token


def checked_token(token: Token | None) -> Token | None:
    """`token`, if it can be sent.

    Raises:
        TypeError: it is neither a text nor a function.
        ValueError: it is empty, or holds what a header cannot.
    """
    if token is None or callable(token):
        return token
    if not isinstance(token, str):
        raise TypeError(f"token is a {type(token).__name__}; it must be a text, or a function that returns one")
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError("token must be printable ASCII text, and not empty (is there a line break at its end?)")
    return token


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` with their names in lower case.

    Raises:
        ValueError: a name or a value cannot be sent, or is the client's own business.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers is a {type(headers).__name__}; it must be a mapping of names to texts")
    checked = {}
    for name, value in headers.items():
        lower = name.lower()
        if not lower.replace("-", "").replace("_", "").replace(".", "").isalnum() or not lower.isascii():
            raise ValueError(f"headers: {name!r} cannot be the name of a header")
        if lower in _RESERVED or lower.startswith("grpc-"):
            hint = "; use token" if lower == "authorization" else ""
            raise ValueError(f"headers: {name!r} is set by the client{hint}")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError(f"headers: the value of {name!r} must be printable ASCII text")
        checked[lower] = value
    return checked
