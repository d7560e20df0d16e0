"""What gRPC channels have: to Triton from the client, and from whatever else of the project asks one something.

All of them begin with `CHANNEL_OPTIONS`, so that what one reaches the others reach too.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from vitriton._options import MAX_MESSAGE_BYTES
from vitriton._wire.address import Address
from vitriton._wire.connection import ConnectionSettings

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    # Where http_proxy, https_proxy or grpc_proxy is set, gRPC goes through it of its own accord, to this host too.
    # GRPC_ADDRESS_HTTP_PROXY, for addresses that another variable lists, has a switch of its own: an empty list.
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
    # gRPC's own default is 4 MB
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # An error that names many images is longer than the default of 8 KiB, above which gRPC throws it away (at random up
    # to 16 KiB) and reports RESOURCE_EXHAUSTED in its place.
    ("grpc.max_metadata_size", 256 * 1024),
    # All attempts are the client's, which counts them. gRPC's own, for what never reached a server's application, have
    # no limit and no wait: after a GOAWAY they can spin on the dying connection, and starve the thread that would end
    # it, until the deadline (seen with grpcio 1.85).
    ("grpc.enable_retries", 0),
    # The default backs off to 2 minutes, so that a server long back would still be called unavailable.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The default is 30 s, for which a server that has moved to another address would not be found.
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
    # Connections of its own: closing a client closes them, and no other client's backoff counts here.
    ("grpc.use_local_subchannel_pool", 1),
)

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def channel_options(address: Address, settings: ConnectionSettings) -> dict[str, Any]:
    """The channel's options: the client's, what the address and TLS ask for, and the user's over both."""
    options: dict[str, Any] = dict(CHANNEL_OPTIONS)
    if not _is_literal(address.host) and address.host != "localhost":  # whose two addresses are one server
        options["grpc.service_config"] = _ROUND_ROBIN
    server_name = settings.tls.server_name
    if address.is_secure and server_name is not None:
        options["grpc.ssl_target_name_override"] = server_name
        options["grpc.default_authority"] = server_name
    given = settings.grpc_options
    if "grpc.http_proxy" in given:  # who names a proxy wants it
        options["grpc.enable_http_proxy"] = 1
    return {**options, **given}


def channel_target(address: Address) -> str:
    """As gRPC wants it. The scheme keeps a host called "unix" from being one."""
    return address.target if _is_literal(address.host) else f"dns:///{address.target}"


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
