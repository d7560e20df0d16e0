"""Addresses: resolves the host and checks that its ports are free, before Triton fails on them."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace

from vitriton_server._config import ServerConfig
from vitriton_server._errors import AddressError, InvalidConfiguration

_SERVICES = {"http_port": "HTTP", "grpc_port": "gRPC", "metrics_port": "metrics"}


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """The addresses of the three services.

    Attributes:
        ip: the address that is bound, which may be a wildcard.
        http_port: the port of HTTP, never 0.
        grpc_port: the port of gRPC, never 0.
        metrics_port: the port of metrics, never 0.
    """

    ip: str
    http_port: int
    grpc_port: int
    metrics_port: int

    def address(self, port: int) -> str:
        """Returns `host:port` for a client on this machine; a wildcard becomes loopback."""
        address = ipaddress.ip_address(self.ip)
        if address.is_unspecified:
            return f"127.0.0.1:{port}" if address.version == 4 else f"[::1]:{port}"
        return f"{self.bracketed_ip}:{port}"

    @property
    def bracketed_ip(self) -> str:
        """The address for URLs and gRPC: IPv6 in brackets."""
        return f"[{self.ip}]" if ":" in self.ip else self.ip


def resolve(host: str) -> str:
    """Resolves a name or an address to the address to bind; IPv4 where a name has both.

    Raises:
        InvalidConfiguration: the name is unknown.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        raise InvalidConfiguration(
            "host", f"{host} is an unknown name ({exc.strerror}); use an address of this machine"
        ) from exc
    addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return addresses[0]


def check_host(host: str) -> None:
    """Checks that a host is this machine.

    Raises:
        InvalidConfiguration: the name is unknown, or the address is another machine's.
    """
    with _bind(resolve(host), 0, "http_port", host):
        pass


def reserve(config: ServerConfig) -> Endpoints:
    """Checks that the ports are free, and chooses those that are 0.

    Nothing stays bound, so another process may still take one before Triton does.

    Raises:
        InvalidConfiguration: the host is not this machine.
        AddressError: a port is taken; the text names the port, its service and what to do.
    """
    ip = resolve(config.host)
    ports: dict[str, int] = {}
    with ExitStack() as stack:  # all are held until all are known, so that no two are equal
        fixed_first = sorted(_SERVICES, key=lambda name: getattr(config, name) == 0)
        for name in fixed_first:
            bound = stack.enter_context(_bind(ip, getattr(config, name), name, config.host))
            ports[name] = bound.getsockname()[1]
    return Endpoints(ip=ip, **ports)


def keep_ports(config: ServerConfig, endpoints: Endpoints) -> ServerConfig:
    """Returns the configuration with the ports of `endpoints`, for a restart."""
    return replace(config, **{name: getattr(endpoints, name) for name in _SERVICES})


def _bind(ip: str, port: int, name: str, host: str) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections that are closing do not make a port taken; a listener does, even one that shares the port with
        # SO_REUSEPORT.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((ip, port))
        bound.listen()
    except OSError as exc:
        bound.close()
        if exc.errno == errno.EADDRNOTAVAIL:
            raise InvalidConfiguration("host", f"{host} ({ip}) is not an address of this machine") from exc
        raise AddressError(_why(exc, ip, port, name, host)) from exc
    return bound


def _why(exc: OSError, ip: str, port: int, name: str, host: str) -> str:
    option = "--" + name.replace("_", "-")
    title = f"port {port} ({_SERVICES[name]}) on {host}"
    if exc.errno == errno.EADDRINUSE:
        return (
            f"{title} is taken; stop what listens there (`ss -ltnp`), or choose another with {option} (0: a free one)"
        )
    if exc.errno == errno.EACCES:
        return f"{title} needs a privilege that this user does not have; choose one above 1023 with {option}"
    return f"{title} cannot be bound: {exc.strerror}"
