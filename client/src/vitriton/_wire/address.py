"""The addresses of servers, parsed from the user's text."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 8000}
_SECURE = ("grpcs", "https")


@dataclass(frozen=True)
class Address:
    """The address of one server.

    Attributes:
        scheme: the URL scheme: grpc, grpcs, http or https.
        host: the host name or IP address; an IPv6 address has no brackets.
        port: the TCP port, from 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @property
    def target(self) -> str:
        """`host:port`, with brackets where the host is an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_secure(self) -> bool:
        """Whether connections use TLS."""
        return self.scheme in _SECURE

    def __str__(self) -> str:
        """The address in the form that `parse_address` reads."""
        return f"{self.scheme}://{self.target}"


def parse_addresses(given: str | Sequence[str]) -> tuple[Address, ...]:
    """Parses one address, a sequence of addresses, or a comma-separated list.

    Raises:
        ValueError: there is no address, one is invalid or repeated, or the schemes differ.
        TypeError: the value is neither a string nor a sequence of strings.
    """
    several = isinstance(given, Sequence) and not isinstance(given, (str, bytes, bytearray))
    texts: list[Any] = list(given) if several else [given]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"address has the type {type(text).__name__}; give a text like localhost:8001, or a list of them"
            )
    scheme = ""
    addresses: list[Address] = []
    entries = [part for item in texts for part in item.split(",")]
    if not "".join(entries).strip():
        raise ValueError("address is empty; give at least one, like localhost:8001")
    for number, text in enumerate(entries, 1):
        if not text.strip():
            raise ValueError(f"address has {len(entries)} entries, and entry {number} is empty; leave it out")
        # grpc://a:8001,b:8001 means grpc:// for both
        addresses.append(parse_address(text if "://" in text or not scheme else f"{scheme}://{text.strip()}"))
        scheme = addresses[-1].scheme
    if len({address.scheme for address in addresses}) > 1:
        raise ValueError(f"addresses {_listed(addresses)} have different schemes; a client speaks one protocol")
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"addresses {_listed(addresses)}: one of them is given twice")
    return tuple(addresses)


def parse_address(text: str) -> Address:
    """Parses `host`, `host:port` or `scheme://host:port`.

    The default scheme is grpc://; the default ports are Triton's, 8001 for gRPC and 8000 for HTTP.

    Raises:
        ValueError: the text has another form, or the scheme is unknown.
    """
    example = "write it like localhost:8001 or grpc://triton.example.com:8001"
    scheme, found, rest = _split(text.strip())
    shown = _shown(text.strip())
    scheme = scheme.lower() if found else "grpc"
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(
            f"address {shown!r} has the unknown scheme {scheme}://; known are grpc, grpcs, http and https; {example}"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        if _is_ipv6(rest):
            raise ValueError(f"address {shown!r} has an IPv6 address without brackets; write [::1]:8001") from None
        several = "@" not in rest and "[" not in rest and rest.count(":") > 1
        reason = " (it has more than one port)" if several else f" ({exc})" if "@" not in rest else ""
        raise ValueError(f"address {shown!r} cannot be read{reason}; {example}") from (None if "@" in rest else exc)
    fault = _fault(parts)
    if not host or fault is not None:
        raise ValueError(f"address {shown!r} {fault or 'has no host'}; {example}")
    if any(character.isspace() for character in host):
        raise ValueError(f"address {shown!r} has a space in it; {example}")
    return Address(scheme, host, port or _DEFAULT_PORTS[scheme])


def _fault(parts: SplitResult) -> str | None:
    """What an address has beyond a host and a port, without its text, which may be a secret."""
    if parts.port == 0:
        return "has port 0; a server has one from 1 to 65535"
    if parts.username is not None:
        return "contains a user name, which is not supported"
    for part, name in ((parts.path.strip("/"), "path"), (parts.query, "query"), (parts.fragment, "fragment")):
        if part:
            return f"is followed by a {name}; leave that out: an address ends with the port"
    return None


def _is_ipv6(rest: str) -> bool:
    """Whether the text is an IPv6 address without brackets, alone or before a port."""
    try:
        return ipaddress.ip_address(rest).version == 6
    except ValueError:
        host, colon, port = rest.rpartition(":")
        return bool(colon) and port.isdigit() and ":" in host and _is_ipv6(host)


def _listed(addresses: Sequence[Address]) -> str:
    return ", ".join(map(str, addresses))


def _split(text: str) -> tuple[str, str, str]:
    """The scheme, `://`, and the rest; the first two are empty where there is no scheme."""
    scheme, found, rest = text.partition("://")
    return (scheme, found, rest) if found else ("", "", scheme)


def _shown(text: str) -> str:
    """The text without its possible secrets: user, password, query and fragment."""
    scheme, found, rest = _split(text)
    place = rest.rpartition("@")[2]
    for mark in "?#":
        place = place.partition(mark)[0]
    return f"{scheme}{found}{place}"
