"""The client's bounds, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

MIB = 1024 * 1024
# What one gRPC message can carry is INT32_MAX bytes; the rest of the request (names, shapes) needs little.
MAX_MESSAGE_BYTES = 2**31 - 1
_MAX_IMAGE_BYTES = MAX_MESSAGE_BYTES - MIB


class Unset(Enum):
    """The type of `UNSET`: "not given", where None means "no limit"."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a client may spend.

    Attributes:
        max_in_flight: requests of one call that are with the servers at a time.
        max_request_bytes: images in one request, in bytes; a larger image travels alone. The default keeps below the
            64 MiB that Triton's HTTP endpoint takes.
        max_image_bytes: one image, in bytes. PIL images and arrays need width × height × 3.
        max_held_bytes: images of one call that are read and not yet answered, in bytes; reading pauses above it.
        read_threads: that read files, fetch URLs and (with preprocess="client") decode, for all calls of the client.
        read_ahead: images of one call that are taken from the caller beyond those that are with the servers.
        max_linger_s: for how long images wait for others to fill their request, in seconds.
        initial_backoff_s: the first wait before a retry lies between 0 and this, in seconds; it doubles each time.
        max_backoff_s: what it doubles up to, in seconds.
        max_attempts: times that a request is tried; None is limited by the deadline alone.
        attempt_timeout_s: after which an attempt counts as failed and another server is tried, in seconds; None leaves
            it all the time that the call has.
        max_connections: of an HTTP client to one server, which is also its requests at a time.
        grpc_options: of the gRPC channel, over the client's own; proxies are used only where it says so.
        url_timeout_s: for fetching one URL, redirects and body included, in seconds.
        url_max_bytes: the body of one URL, in bytes; None is max_image_bytes, at most 64 MiB.
        url_max_redirects: that one URL may lead through.
        refuse_private_addresses: whether URLs that lead into a private network (loopback, link-local, ...) are refused,
            judged by the address that is really connected to, at each redirect.
    """

    max_in_flight: int = 4
    max_request_bytes: int = 32 * MIB
    max_image_bytes: int = 256 * MIB
    max_held_bytes: int = 256 * MIB
    read_threads: int = 8
    read_ahead: int = 64
    max_linger_s: float = 0.02
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    max_attempts: int | None = None
    attempt_timeout_s: float | None = None
    max_connections: int = 64
    grpc_options: Mapping[str, Any] = field(default_factory=dict)
    url_timeout_s: float = 10.0
    url_max_bytes: int | None = None
    url_max_redirects: int = 5
    refuse_private_addresses: bool = False

    def __post_init__(self) -> None:
        """Checks every field against its bounds.

        Raises:
            ValueError: names the field, the value and the bound.
        """
        check_count("max_in_flight", self.max_in_flight, 1, 1024)
        check_count("max_request_bytes", self.max_request_bytes, 1, _MAX_IMAGE_BYTES)
        check_count("max_image_bytes", self.max_image_bytes, 1, _MAX_IMAGE_BYTES)
        check_count("max_held_bytes", self.max_held_bytes, 1, 2**63 - 1)
        check_count("read_threads", self.read_threads, 1, 256)
        check_count("read_ahead", self.read_ahead, 1, 2**20)
        check_count("max_connections", self.max_connections, 1, 1024)
        check_count("url_max_redirects", self.url_max_redirects, 0, 100)
        if self.max_attempts is not None:
            check_count("max_attempts", self.max_attempts, 1, 2**31)
        if self.url_max_bytes is not None:
            check_count("url_max_bytes", self.url_max_bytes, 1, self.max_image_bytes)
        if self.attempt_timeout_s is not None:
            check_seconds("attempt_timeout_s", self.attempt_timeout_s)
        for name in ("url_timeout_s", "max_linger_s", "initial_backoff_s", "max_backoff_s"):
            check_seconds(name, getattr(self, name))

    @property
    def url_bytes(self) -> int:
        """The most that the body of a URL may have, in bytes."""
        return min(64 * MIB, self.max_image_bytes) if self.url_max_bytes is None else self.url_max_bytes


def check_count(name: str, value: int, low: int, high: int) -> None:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")


def check_seconds(name: str, value: float) -> None:
    """Raises ValueError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; it must be an int or a float, in seconds, above 0 and finite")
