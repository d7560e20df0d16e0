"""Sends a film to a browser, which asks for the parts that it plays."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import BinaryIO

from starlette.responses import Response, StreamingResponse

from vitriton_search.page.refusals import PageRefused

_PART = 256 * 1024  # bytes in memory for each film that is sent
_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})")
# What browsers play, by the suffix; other films are downloaded.
_PLAYED = {
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".mp4": "video/mp4",
    ".ogv": "video/ogg",
    ".webm": "video/webm",
}


def film_answer(file: BinaryIO, source: str, wanted: str | None) -> Response:
    """The answer with a film, or the part of it that is wanted.

    Args:
        file: the film, which is closed at the end.
        source: its name in the store.
        wanted: the header `range` of the request.

    Raises:
        PageRefused: the film has no such part.
    """
    size = os.fstat(file.fileno()).st_size
    span = _span(wanted, size)
    first, last = (0, size - 1) if span is None else span
    if not 0 <= first <= last < size:
        file.close()
        raise PageRefused(f"the film has {size} bytes, and not this part", 416)
    headers = {"accept-ranges": "bytes", "content-length": str(last + 1 - first), "cache-control": "private, no-cache"}
    if span is not None:
        headers["content-range"] = f"bytes {first}-{last}/{size}"
    kind = _PLAYED.get(PurePath(source).suffix.lower())
    if kind is None:
        headers["content-disposition"] = "attachment"
    return StreamingResponse(
        _parts(file, first, last), 200 if span is None else 206, headers, kind or "application/octet-stream"
    )


async def _parts(file: BinaryIO, first: int, last: int) -> AsyncIterator[bytes]:
    with file:
        while first <= last:
            part = await asyncio.to_thread(os.pread, file.fileno(), min(_PART, last + 1 - first), first)
            if not part:  # it was cut in the meantime: the connection is closed, as the length was promised
                raise OSError("the film has become shorter")
            yield part
            first += len(part)


def _span(wanted: str | None, size: int) -> tuple[int, int] | None:
    """The first and the last byte of a range; None for the whole, also if there are several ranges."""
    found = _RANGE.fullmatch((wanted or "").strip())
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:
        return max(0, size - int(found["last"])), size - 1
    return int(found["first"]), min(size - 1, int(found["last"] or size))
