"""What bounds the work: the requests and their bytes at a time. What is too much is refused at once.

A body that is still arriving takes no place of those that are being answered: a slow caller would keep it from others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from vitriton_api._errors import RequestRefused

_ARRIVING = 4  # bodies that arrive for each request that is answered


@dataclass
class Admission:
    """Counts the requests whose bodies arrive, those that are being answered, and the bytes of all their bodies.

    Attributes:
        max_requests: the largest number of requests that are being answered at a time.
        max_bytes: the largest size of their bodies together, in bytes.
        requests: the number of requests that are being answered now.
        arriving: the number of requests whose bodies are arriving now; at most four times `max_requests`.
        bytes: the size of the bodies of both now, in bytes; a declared length counts from the start.
    """

    max_requests: int
    max_bytes: int
    requests: int = 0
    arriving: int = 0
    bytes: int = 0

    def enter(self) -> Place:
        """Takes a place for a request whose body arrives, for a `with` block.

        Raises:
            RequestRefused: as many bodies are arriving, or requests are being answered, as may be.
        """
        self.check()
        if self.arriving >= _ARRIVING * self.max_requests:
            raise _full(f"the bodies of {self.arriving} requests are arriving, which is as many as this endpoint takes")
        self.arriving += 1
        return Place(self)

    def check(self) -> None:
        """Checks that one more request can be answered.

        Raises:
            RequestRefused: it cannot.
        """
        if self.requests >= self.max_requests:
            raise _full(f"{self.requests} requests are being answered, which is as many as this endpoint takes")


@dataclass
class Place:
    """The place of one request. Its bytes are given back at the end of the `with` block.

    Attributes:
        admission: what counts them.
        bytes: the size of the request's body so far, in bytes.
        has_begun: whether the request is being answered, and its body does not arrive any more.
    """

    admission: Admission
    bytes: int = 0
    has_begun: bool = False

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.has_begun:
            self.admission.requests -= 1
        else:
            self.admission.arriving -= 1
        self.admission.bytes -= self.bytes

    def begin(self) -> None:
        """Takes a place among the requests that are being answered: the body is there.

        Raises:
            RequestRefused: all places are taken.
        """
        self.admission.check()
        self.has_begun = True
        self.admission.arriving -= 1
        self.admission.requests += 1

    def grow(self, size: int) -> None:
        """Takes memory until the body has a size.

        Args:
            size: the size, in bytes.

        Raises:
            RequestRefused: the bodies of all requests would be too large together.
        """
        more = max(0, size - self.bytes)
        if more and self.admission.bytes + more > self.admission.max_bytes:
            raise _full("the bodies that are here or arriving fill the memory for them")
        self.admission.bytes += more
        self.bytes += more


async def read_body(
    receive: Receive, headers: Mapping[str, str], place: Place, *, max_bytes: int, timeout_s: float
) -> bytearray:
    """Reads the body of a request.

    Args:
        receive: what gives the body's parts.
        headers: the request's headers.
        place: the request's place.
        max_bytes: the largest size of the body, in bytes.
        timeout_s: the longest time for all of it, in seconds.

    Raises:
        RequestRefused: the body is too large or too slow, has another type than JSON, or is compressed.
        ClientDisconnect: the caller has left.
    """
    _check_type(headers)
    declared = headers.get("content-length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 20 else 0
    if size > max_bytes or len(declared) >= 20:
        raise _too_large(max_bytes)
    place.grow(size)
    try:
        return await asyncio.wait_for(_read(receive, place, max_bytes), timeout_s)
    except asyncio.TimeoutError as exc:  # TimeoutError itself from Python 3.11 on
        text = f"the body has not arrived in {timeout_s:g} s"
        raise RequestRefused(text, status=408, code="body_timeout") from exc


def _check_type(headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        text = "compressed bodies are not taken; send this one without Content-Encoding"
        raise RequestRefused(text, status=415, code="content_encoding")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Browsers send other types from any page to any address without asking, and JSON only to those that allow it
    if kind != "application/json":
        text = f"the body has the type {kind[:60] or 'nothing'}; send Content-Type: application/json"
        raise RequestRefused(text, status=415, code="content_type")


async def _read(receive: Receive, place: Place, max_bytes: int) -> bytearray:
    body = bytearray()
    has_more = True
    while has_more:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        if len(body) + len(part) > max_bytes:
            raise _too_large(max_bytes)
        place.grow(len(body) + len(part))
        body += part
        has_more = message.get("more_body", False)
    return body


def _too_large(max_bytes: int) -> RequestRefused:
    text = f"the body is over the limit of {max_bytes} bytes; send fewer inputs at a time"
    return RequestRefused(text, status=413, code="body_too_large")


def _full(reason: str) -> RequestRefused:
    return RequestRefused(f"{reason}; try again later", status=429, code="endpoint_full")
