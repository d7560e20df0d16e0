"""The options of all gRPC channels to Triton, in every distribution.

All channels start from `CHANNEL_OPTIONS`, so a server that one can reach, all can reach.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from vitriton._options import MAX_MESSAGE_BYTES
from vitriton._wire.address import Address
from vitriton._wire.connection import ConnectionSettings

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    # By default gRPC uses http_proxy, https_proxy or grpc_proxy if set, even for localhost.
    # GRPC_ADDRESS_HTTP_PROXY, for addresses that another variable lists, has its own switch: an empty list.
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
    # gRPC's own default is 4 MB
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # An error that names many images exceeds the default of 8 KiB. Above it, gRPC discards the error (at random up to
    # 16 KiB) and reports RESOURCE_EXHAUSTED instead.
    ("grpc.max_metadata_size", 256 * 1024),
    # The client makes and counts all retries. gRPC's own retries, for requests that never reached the server's
    # application, have no limit and no backoff: after a GOAWAY they can spin on the dying connection until the
    # deadline, and starve the thread that would close it (seen with grpcio 1.85).
    ("grpc.enable_retries", 0),
    # The default backs off to 2 minutes, so a server that is back long since would still seem unavailable.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # With the default of 30 s, a server that moved to another address would not be found for that long.
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
    # A machine that is gone without a word (its power, its network) leaves its connections open: requests would wait
    # for a quarter of an hour. With a keepalive, gRPC sets the kernel's limit for what nobody acknowledges
    # (TCP_USER_TIMEOUT). The pings themselves are rarer than the 5 minutes that servers allow.
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.keepalive_time_ms", 600_000),
    # Connections are not shared: closing a client closes them, and one client's backoff does not affect another.
    ("grpc.use_local_subchannel_pool", 1),
)

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def channel_options(address: Address, settings: ConnectionSettings) -> dict[str, Any]:
    """The client's channel options, those that the address and TLS require, and the user's, which take precedence."""
    options: dict[str, Any] = dict(CHANNEL_OPTIONS)
    if not _is_literal(address.host) and address.host != "localhost":  # its two addresses are one server
        options["grpc.service_config"] = _ROUND_ROBIN
    server_name = settings.tls.server_name
    if address.is_secure and server_name is not None:
        options["grpc.ssl_target_name_override"] = server_name
        options["grpc.default_authority"] = server_name
    given = settings.grpc_options
    if "grpc.http_proxy" in given:  # the user asked for a proxy
        options["grpc.enable_http_proxy"] = 1
    return {**options, **given}


def channel_target(address: Address) -> str:
    """The target in gRPC's syntax. The scheme keeps a host called "unix" from becoming a Unix socket."""
    return address.target if _is_literal(address.host) else f"dns:///{address.target}"


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
