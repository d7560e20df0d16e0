"""The client's bounds, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

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
        max_in_flight: requests of one call that are with the server at a time.
        max_request_bytes: encoded images in one request, in bytes; a larger image travels alone.
        max_image_bytes: one encoded image, in bytes. PIL images and arrays need width × height × 3.
        url_timeout_s: for fetching one URL, redirects and body included, in seconds.
        url_max_bytes: the body of one URL, in bytes.
        url_max_redirects: that one URL may lead through.
    """

    max_in_flight: int = 4
    max_request_bytes: int = 32 * MIB
    max_image_bytes: int = 256 * MIB
    url_timeout_s: float = 10.0
    url_max_bytes: int = 64 * MIB
    url_max_redirects: int = 5

    def __post_init__(self) -> None:
        """Checks every field against its bounds.

        Raises:
            ValueError: names the field, the value and the bound.
        """
        check_count("max_in_flight", self.max_in_flight, 1, 1024)
        check_count("max_request_bytes", self.max_request_bytes, 1, _MAX_IMAGE_BYTES)
        check_count("max_image_bytes", self.max_image_bytes, 1, _MAX_IMAGE_BYTES)
        check_count("url_max_bytes", self.url_max_bytes, 1, self.max_image_bytes)
        check_count("url_max_redirects", self.url_max_redirects, 0, 100)
        check_seconds("url_timeout_s", self.url_timeout_s)


def check_count(name: str, value: int, low: int, high: int) -> None:
    """Raises ValueError unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")


def check_seconds(name: str, value: float) -> None:
    """Raises ValueError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; it must be a number of seconds above 0")
