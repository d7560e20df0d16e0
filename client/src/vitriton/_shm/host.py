"""Which hosts are this machine."""

from __future__ import annotations

import socket


def is_same_host(host: str) -> bool:
    """Whether all addresses of a host are of this machine. Asks DNS where it is a name.

    That the server shares /dev/shm with this process is known only once it has opened a region.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_is_own(family, address) for family, _, _, _, address in found)


def _is_own(family: int, address: tuple[object, ...]) -> bool:
    """Whether it is an address of one of this machine's interfaces: no other can be bound."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True
