"""The client's limits, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from vitriton._keywords import suggests_keywords

MIB = 1024 * 1024
# A gRPC message can carry INT32_MAX bytes; the rest of the request (names, shapes) needs little.
MAX_MESSAGE_BYTES = 2**31 - 1
_MAX_IMAGE_BYTES = MAX_MESSAGE_BYTES - MIB


class Unset(Enum):
    """The type of `UNSET`: "not given", where None means "no limit"."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET


@suggests_keywords
@dataclass(frozen=True, kw_only=True)
class Options:
    """The client's limits on time, memory, threads and connections.

    Attributes:
        max_in_flight: the largest number of requests of one call that are sent and unanswered.
        max_request_bytes: the largest size of the images or texts in one request, in bytes; a larger one is sent alone.
            The default stays below the 64 MiB that Triton's HTTP endpoint takes.
        max_image_bytes: the largest size of one image, in bytes. PIL images and arrays need width × height × 3.
        max_held_bytes: the largest size of one call's inputs in memory, in bytes; reading pauses above it.
        read_threads: the number of threads that read files, fetch URLs and (with preprocess="client") decode, for all
            calls of the client.
        read_ahead: the number of inputs of one call that are read ahead, beyond those in requests.
        max_linger_s: the longest time that an input waits for others to fill its request, in seconds.
        initial_backoff_s: the upper limit of the first wait before a retry, in seconds; it doubles with each attempt.
        max_backoff_s: the largest upper limit of a wait before a retry, in seconds.
        max_attempts: the largest number of attempts of one request; None leaves the limit to the deadline.
        attempt_timeout_s: the time after which an attempt fails and another server is tried, in seconds; None gives
            each attempt all the time that the call has.
        max_connections: the largest number of HTTP connections to one server, and so of HTTP requests at a time.
        grpc_options: the options of the gRPC channel, which override the client's own; a proxy is used only if they
            say so.
        url_timeout_s: the time limit for fetching one URL, including redirects and body, in seconds.
        url_max_bytes: the largest size of one URL's body, in bytes; None means max_image_bytes, at most 64 MiB.
        url_max_redirects: the largest number of redirects of one URL.
        refuse_private_addresses: whether to refuse URLs that lead into a private network (loopback, link-local, ...);
            the check is on the address of the actual connection, at each redirect.
        refuse_paths: whether to refuse paths: a str is then an http(s) URL or a data: URI, and a service can pass on
            its users' texts without opening its own files to them.
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
    refuse_paths: bool = False

    def __post_init__(self) -> None:
        """Checks every field against its bounds.

        Raises:
            ValueError: a field is out of its bounds; the text names the field, the value and the bound.
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
        check_time_limit("attempt_timeout_s", self.attempt_timeout_s)
        for name in ("url_timeout_s", "max_linger_s", "initial_backoff_s", "max_backoff_s"):
            check_seconds(name, getattr(self, name))
        if self.initial_backoff_s > self.max_backoff_s:
            raise ValueError(
                f"initial_backoff_s is {self.initial_backoff_s:g}, above max_backoff_s ({self.max_backoff_s:g})"
            )
        for name in ("refuse_private_addresses", "refuse_paths"):
            check_flag(name, getattr(self, name))

    @property
    def url_bytes(self) -> int:
        """The largest size of a URL's body, in bytes."""
        return min(64 * MIB, self.max_image_bytes) if self.url_max_bytes is None else self.url_max_bytes


def in_options(name: str) -> str | None:
    """What to write for a field of `Options` that was given to a client itself; None for any other name."""
    return f"options=Options({name}=...)" if name in Options.__dataclass_fields__ else None


def check_count(name: str, value: int, low: int, high: int) -> None:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")


def check_flag(name: str, value: bool) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be True or False")


def check_seconds(name: str, value: float, or_none: str = "") -> None:
    """Raises ValueError unless `value` is a finite number above 0; `or_none` ends the text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; it must be an int or a float, in seconds, above 0 and finite{or_none}")


def check_time_limit(name: str, value: float | None) -> None:
    """Raises ValueError unless `value` is a finite number above 0, or None for no limit."""
    if value is not None:
        check_seconds(name, value, ", or None for no limit")
