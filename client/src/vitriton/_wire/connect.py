"""Makes the transports for a list of addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vitriton._options import Options
from vitriton._wire.address import Address, parse_addresses
from vitriton._wire.connection import TLS, ConnectionSettings, Token, checked_headers, checked_token
from vitriton._wire.transport import Transport


def connect(
    address: str | Sequence[str],
    *,
    tls: TLS | None = None,
    token: Token | None = None,
    headers: Mapping[str, str] | None = None,
    options: Options | None = None,
    asynchronous: bool = False,
) -> list[Transport]:
    """Makes a transport for each address; the caller closes them. `vitriton.Client` documents the first four arguments.

    Args:
        address: the addresses of the servers.
        tls: the certificates for grpcs:// and https://.
        token: the bearer token of each request.
        headers: the additional headers of each request.
        options: the limits and connection settings.
        asynchronous: whether requests are sent in an event loop.

    Raises:
        ValueError: an address is invalid, or conflicts with the other arguments.
    """
    options = Options() if options is None else options
    addresses = parse_addresses(address)
    scheme = addresses[0].scheme
    if tls is not None and not addresses[0].is_secure:
        raise ValueError(f"tls is given, and {addresses[0]} is not encrypted; use {scheme}s://")
    settings = ConnectionSettings(
        tls=tls or TLS(),
        token=checked_token(token),
        headers=checked_headers({} if headers is None else headers),
        grpc_options=options.grpc_options,
        max_connections=options.max_connections,
    )
    return [_transport(where, settings, asynchronous) for where in addresses]


def _transport(address: Address, settings: ConnectionSettings, asynchronous: bool) -> Transport:
    # Not at the top: gRPC takes most of the import time, and HTTP does not need it.
    if address.scheme.startswith("http"):
        from vitriton._wire.http import HttpTransport

        return HttpTransport(address, settings)
    if asynchronous:
        from vitriton._wire.grpc_aio import AioGrpcTransport

        return AioGrpcTransport(address, settings)
    from vitriton._wire.grpc import GrpcTransport

    return GrpcTransport(address, settings)
