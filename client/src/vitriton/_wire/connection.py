"""The settings of a client's connections: TLS, token, headers and limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vitriton._keywords import suggests_keywords

Token = str | Callable[[], str]

_RESERVED = ("authorization", "content-type", "content-length", "host", "te", "user-agent")


@suggests_keywords
@dataclass(frozen=True, kw_only=True)
class TLS:
    """The certificates for grpcs:// and https://, as PEM files.

    Attributes:
        ca_file: the trusted CA certificates; None: those of the system (HTTP) or of gRPC.
        cert_file: the client's certificate chain; None: the client shows no certificate.
        key_file: the private key of cert_file, without a password.
        server_name: the name that the server's certificate must have; None: the host of the address.
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
            raise ValueError("TLS needs cert_file and key_file together: a certificate is used with its key")
        for name in ("ca_file", "cert_file", "key_file"):
            self.read(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **vars(self)), ()  # has the files checked where it is unpickled

    def read(self, name: str) -> bytes | None:
        """Reads one of the files; None if it is not set.

        Raises:
            ValueError: the file cannot be read.
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
    """The settings that all transports of a client share.

    Attributes:
        tls: the certificates for grpcs:// and https://.
        token: the token, sent as `authorization: Bearer <token>`; a function is called for each request.
        headers: the additional headers of each request, with names in lower case.
        grpc_options: the gRPC channel options, which override the client's own.
        max_connections: the most connections, and so concurrent requests, of an HTTP transport.
    """

    tls: TLS = field(default_factory=TLS)
    token: Token | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    grpc_options: Mapping[str, Any] = field(default_factory=dict)
    max_connections: int = 64

    def request_headers(self, extra: Mapping[str, str]) -> list[tuple[str, str]]:
        """All headers of one request, including `extra`, with names in lower case."""
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
    """Returns `token` if it is valid.

    Raises:
        TypeError: the token is neither a string nor a function.
        ValueError: the token is empty, or has characters that a header cannot hold.
    """
    if token is None or callable(token):
        return token
    if not isinstance(token, str):
        raise TypeError(f"token has the type {type(token).__name__}; it must be a text, or a function that returns one")
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError("token must be printable ASCII text, and not empty (is there a line break at its end?)")
    return token


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns `headers` with their names in lower case.

    Raises:
        ValueError: a name or a value cannot be sent, or the client itself sets that header.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers has the type {type(headers).__name__}; it must be a mapping of names to texts")
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
