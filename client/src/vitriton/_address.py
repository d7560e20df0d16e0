"""Where the server is, out of what the user wrote."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 8000}
_SUPPORTED = ("grpc",)


@dataclass(frozen=True)
class Address:
    """One server.

    Attributes:
        scheme: how to talk to it.
        host: a name, an IPv4 address, or an IPv6 address without brackets.
        port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @property
    def target(self) -> str:
        """`host:port`, with brackets where the host is an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """As the user would write it."""
        return f"{self.scheme}://{self.target}"


def parse_address(text: str) -> Address:
    """Reads `host`, `host:port` or `scheme://host:port`; grpc:// is the default, and its port is 8001.

    Raises:
        ValueError: it is none of these, or its scheme is unknown or not yet supported.
    """
    example = "write it like localhost:8001 or grpc://triton.example.com:8001"
    scheme, found, rest = text.strip().rpartition("://")
    scheme = scheme.lower() if found else "grpc"
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"address {text!r} has the unknown scheme {scheme}://; {example}")
    if scheme not in _SUPPORTED:
        raise ValueError(f"address {text!r}: {scheme}:// is not yet supported; use grpc:// (Triton's gRPC port, 8001)")
    if "," in rest:
        raise ValueError(f"address {text!r}: several addresses are not yet supported; give one")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"address {text!r} cannot be read ({exc}); {example}") from exc
    if not host or port == 0 or parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"address {text!r} is not a host and a port; {example}")
    if any(character.isspace() for character in host):
        raise ValueError(f"address {text!r} has a space in it; {example}")
    return Address(scheme, host, port or _DEFAULT_PORTS[scheme])
