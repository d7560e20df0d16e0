"""What requests bring: pictures, and JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from vitriton_search.page.photos import MIB
from vitriton_search.page.refusals import PageRefused

MAX_UPLOAD_BYTES = 32 * MIB
_MAX_JSON_BYTES = 64 * 1024
_BODY_S = 60.0  # for a body to arrive


async def asked_for(request: Request) -> dict[str, Any]:
    """What a request asks for: `photo` with bytes, `text`, or `id`.

    Raises:
        PageRefused: it asks for nothing, or for several things, or with a body of a type that other sites may send.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Browsers send other types from any page to any address without asking, and these only to those that allow it
    if kind.startswith("image/") or kind == "application/octet-stream":
        data = await _body(request, MAX_UPLOAD_BYTES)
        if not data:
            raise PageRefused("the picture is empty; choose another file")
        return {"photo": data}
    given = await json_body(request)
    if len(given) != 1 or not given.keys() <= {"text", "id"} or not all(isinstance(v, str) for v in given.values()):
        raise PageRefused('send a picture with its own Content-Type, or JSON: {"text": "..."} or {"id": "..."}')
    if not next(iter(given.values())).strip():
        raise PageRefused("there is nothing to search for; type a text, or choose a picture", field="text")
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise PageRefused("it has half of a surrogate pair, which is no character") from exc
    return given


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        PageRefused: its body is none, or comes too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise PageRefused(f"the body has the type {kind[:60] or 'nothing'}; send a picture, or application/json", 415)
    try:
        given = json.loads(await _body(request, _MAX_JSON_BYTES))
    except (ValueError, RecursionError) as exc:
        raise PageRefused("the body is not JSON") from exc
    if not isinstance(given, dict):
        raise PageRefused("the body is not a JSON object")
    return given


async def _body(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        raise _too_large(max_bytes)

    async def read() -> bytes:
        data = bytearray()
        async for part in request.stream():
            if len(data) + len(part) > max_bytes:
                raise _too_large(max_bytes)
            data += part
        return bytes(data)

    try:
        return await asyncio.wait_for(read(), _BODY_S)
    except asyncio.TimeoutError as exc:
        raise PageRefused(f"the body has not arrived in {_BODY_S:g} s", 408) from exc


def _too_large(max_bytes: int) -> PageRefused:
    unit, of = (MIB, "MiB") if max_bytes >= MIB else (1024, "KiB")
    return PageRefused(f"it is larger than {max_bytes // unit} {of}; choose a smaller one", 413)
