"""The ASGI application of the page: the routes, and what each answers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from importlib import resources
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from vitriton import Client, ClientError, VitritonError
from vitriton._console.failure import reason

from vitriton_search.answers.documents import hit_document
from vitriton_search.answers.duplicates import Duplicates, find_duplicates
from vitriton_search.answers.query import nearest, photo_vector, row_vector, text_vector
from vitriton_search.page.bodies import asked_for, json_body
from vitriton_search.page.films import FilmFrames, open_film
from vitriton_search.page.gate import LOGIN, PageGate, PageToken, refused
from vitriton_search.page.groups import group_rows, groupings
from vitriton_search.page.map import StoreMap, make_map
from vitriton_search.page.photos import read_photo, shown, thumbnail, thumbnail_key
from vitriton_search.page.refusals import PageRefused, refusal_of
from vitriton_search.page.sending import film_answer
from vitriton_search.page.thumbnails import Thumbnails
from vitriton_search.stores.store import Floats, Store
from vitriton_search.stores.where import Where, parse

_LOG = logging.getLogger("vitriton.search")

MAX_HITS = 500
_HITS, _THRESHOLD = 48, 0.95  # unless the request says more
_ASKING = 4  # requests that hold a body and ask the model, at a time; others wait
_MODEL_S = 5.0  # for the description of the model, which is asked for again after so long
_GROUPS, _OF_A_GROUP = 100, 12  # of duplicates that are shown
_WRONG_TOKEN_S = 1.0  # before the answer to a wrong token

_STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/static/style.css": ("style.css", "text/css; charset=utf-8"),
    "/static/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/static/map.js": ("map.js", "text/javascript; charset=utf-8"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
}

_T = TypeVar("_T")
Handler = Callable[[Request], Awaitable[Response]]


class Page:
    """The application, and its state.

    Args:
        store: the store that it shows.
        client: the client that embeds with the store's model.
        thumbnails: the thumbnails that have been made.
        frames: the process that makes those of frames.
        name: the name of the store, as people read it.
        hosts: the names by which it may be asked for; see `gate.host_names`.
        token: the token that it needs; None: it needs none.

    Attributes:
        app: the application.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        thumbnails: Thumbnails,
        frames: FilmFrames,
        *,
        name: str,
        hosts: frozenset[str],
        token: PageToken | None = None,
    ) -> None:
        self._store = store
        self._client = client
        self._thumbnails = thumbnails
        self._frames = frames
        self._name = name
        self._token = token
        self._asking = asyncio.Semaphore(_ASKING)
        self._decoding = asyncio.Semaphore(os.cpu_count() or 1)
        self._filming = asyncio.Lock()  # one process decodes frames, and pictures do not wait for it
        self._long = asyncio.Lock()  # the map and the duplicates take all cores, one at a time
        self._model: tuple[float, dict[str, Any]] | None = None
        self._map: tuple[int, StoreMap] | None = None
        self._duplicates: tuple[tuple[int, float, str], Duplicates] | None = None
        self._columns = store.columns
        routes = [Route(path, _static(*file), methods=["GET"]) for path, file in _STATIC.items()]
        routes += [
            Route(path, _answered(handler), methods=[method])
            for path, method, handler in (
                ("/api/info", "GET", self._info),
                ("/api/query", "POST", self._query),
                ("/api/thumbnail", "GET", self._thumbnail),
                ("/api/photo", "GET", self._photo),
                ("/api/film", "GET", self._film),
                ("/api/duplicates", "GET", self._find_duplicates),
                ("/api/map", "GET", self._show_map),
                (LOGIN, "POST", self._login),
            )
        ]
        routed = Starlette(routes=routes, exception_handlers={HTTPException: _not_routed})
        routed.router.redirect_slashes = False
        self.app: ASGIApp = PageGate(routed, hosts, token)

    async def _info(self, request: Request) -> Response:
        space = self._store.space
        return _json(
            {
                "store": self._name,
                "model": space.model,
                "fingerprint": space.fingerprint,
                "dimensions": space.dimensions,
                "rows": await asyncio.to_thread(len, self._store),
                "columns": {name: str(kind) for name, kind in self._columns.items()},
                "groupings": groupings(self._store),
                **await self._described(),
            }
        )

    async def _described(self) -> dict[str, Any]:
        """The towers of the model, and why it cannot be asked, if it cannot."""
        now_s = time.monotonic()
        if self._model is None or now_s - self._model[0] > _MODEL_S:
            self._model = now_s, await asyncio.to_thread(self._describe)
        return self._model[1]

    def _describe(self) -> dict[str, Any]:
        try:
            model = self._client.describe(timeout_s=_MODEL_S)
        except ClientError as exc:
            _LOG.warning("the model cannot be asked: %s", reason(exc))
            return {"towers": [], "problem": str(refusal_of(exc))}
        pooled = {"image": model.pooled, "text": model.text_pooled}
        return {"towers": [tower for tower, output in pooled.items() if output is not None], "problem": None}

    async def _query(self, request: Request) -> Response:
        k = _count(request.query_params.get("k"))
        where = self._where(request)
        async with self._asking:
            asked = await asked_for(request)
            vector, embed_s = await _timed(self._vector, asked)
            without = asked.get("id")
            answers, search_s = await _timed(lambda: nearest(self._store, vector, k, where, without=without))
        return _json(
            {
                "hits": [answer.document() for answer in answers],
                "timing": {"embed_ms": round(1000 * embed_s, 1), "search_ms": round(1000 * search_s, 1)},
            }
        )

    def _vector(self, asked: Mapping[str, Any]) -> Floats:
        if "id" in asked:
            return row_vector(self._store, asked["id"])
        if "text" in asked:
            return text_vector(self._client, asked["text"])
        return photo_vector(self._client, asked["photo"])

    def _where(self, request: Request) -> Where | None:
        text = request.query_params.get("where", "").strip()
        try:
            return parse(text, self._columns) if text else None
        except RecursionError as exc:
            raise PageRefused("the condition is nested too deep", field="where") from exc

    async def _thumbnail(self, request: Request) -> Response:
        row = await self._row(request)
        key = thumbnail_key(row)
        data = await asyncio.to_thread(self._thumbnails.find, key)
        if data is None:
            is_frame = row["time_s"] is not None
            make = (lambda: self._frames.thumbnail(row)) if is_frame else (lambda: thumbnail(read_photo(row)))
            async with self._filming if is_frame else self._decoding:
                data = await asyncio.to_thread(self._thumbnails.get, key, make)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def _photo(self, request: Request) -> Response:
        row = await self._row(request)
        async with self._decoding:
            data, kind = await asyncio.to_thread(lambda: shown(read_photo(row)))
        return Response(data, media_type=kind, headers={"cache-control": "private, no-cache"})

    async def _film(self, request: Request) -> Response:
        row = await self._row(request)
        file = await asyncio.to_thread(open_film, row)
        return film_answer(file, row["source"], request.headers.get("range"))

    async def _row(self, request: Request) -> dict[str, Any]:
        """The row of a request, without its vector."""
        table = await asyncio.to_thread(self._store.rows, [_given(request, "id")])
        if not table.num_rows:
            raise PageRefused("the store has no row with this id", 404)
        row: dict[str, Any] = table.drop_columns(["embedding"]).slice(0, 1).to_pylist()[0]
        return row

    async def _find_duplicates(self, request: Request) -> Response:
        threshold = _share(request.query_params.get("threshold"))
        where = self._where(request)
        async with self._long:
            key = await asyncio.to_thread(len, self._store), threshold, str(where)
            if self._duplicates is None or self._duplicates[0] != key:
                self._duplicates = key, await asyncio.to_thread(find_duplicates, self._store, threshold, where)
        found = self._duplicates[1]
        groups = [
            {"rows": len(group), "hits": [hit_document(hit) for hit in group[:_OF_A_GROUP]]}
            for group in found.groups[:_GROUPS]
        ]
        return _json(
            {
                "threshold": threshold,
                "rows": found.rows,
                "exact": found.is_exact,
                "curve": [bar._asdict() for bar in found.curve],
                "total": len(found.groups),
                "groups": groups,
            }
        )

    async def _show_map(self, request: Request) -> Response:
        by = request.query_params.get("by")
        if by is not None and by not in groupings(self._store):
            raise PageRefused(f"by is {by[:60]}; it must be {' or '.join(groupings(self._store))}", field="by")
        async with self._long:
            rows = await asyncio.to_thread(len, self._store)
            if self._map is None or self._map[0] != rows:
                self._map = rows, await asyncio.to_thread(make_map, self._store)
            body = await asyncio.to_thread(self._map_document, self._map[1], by)
        return Response(body, media_type="application/json")

    def _map_document(self, made: StoreMap, by: str | None) -> bytes:
        return _encoded(
            {
                "ids": made.ids,
                "points": made.points.reshape(-1).tolist(),
                "explained": made.explained,
                "rows": made.rows,
                "groups": None if by is None else asdict(group_rows(self._store, made.ids, by)),
            }
        )

    async def _login(self, request: Request) -> Response:
        given = await json_body(request)
        if self._token is None:
            raise PageRefused("this page needs no token")
        if not self._token.is_right(str(given.get("token", ""))):
            await asyncio.sleep(_WRONG_TOKEN_S)
            raise PageRefused("this is not the token of this page", 401, field="token")
        response = Response(status_code=204)
        self._token.remember(response, is_encrypted=request.headers.get("origin", "").startswith("https:"))
        return response


def _answered(handler: Handler) -> Handler:
    """A handler whose errors become answers."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except VitritonError as exc:
            refusal = refusal_of(exc)
            if refusal.status >= 500:
                _LOG.warning("%s: %s", request.url.path, reason(exc))
            return refused(refusal)
        # Whatever it is, the page shows a sentence, and the log has the rest
        except Exception:
            _LOG.exception("%s failed", request.url.path)
            return refused(refusal_of(VitritonError()))

    return answer


def _static(name: str, kind: str) -> Handler:
    body = resources.files("vitriton_search.page").joinpath("static", name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(body, media_type=kind, headers={"cache-control": "no-cache"})

    return answer


async def _not_routed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return refused(PageRefused("there is nothing at this path", status))


async def _timed(work: Callable[..., _T], *arguments: Any) -> tuple[_T, float]:
    start_s = time.perf_counter()
    result = await asyncio.to_thread(work, *arguments)
    return result, time.perf_counter() - start_s


def _given(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise PageRefused(f"{name} is missing")
    return value


def _count(text: str | None) -> int:
    if text is None:
        return _HITS
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_HITS):
        raise PageRefused(f"k is {text[:20]}; it must be from 1 to {MAX_HITS}", field="k")
    return int(text)


def _share(text: str | None) -> float:
    try:
        value = _THRESHOLD if text is None else float(text)
    except ValueError:
        value = math.nan
    if not 0.5 <= value <= 1:
        raise PageRefused(f"threshold is {(text or '')[:20]}; it must be from 0.5 to 1", field="threshold")
    return value


def _json(document: Mapping[str, Any]) -> Response:
    return Response(_encoded(document), media_type="application/json")


def _encoded(document: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(document, allow_nan=False, default=_plain, separators=(",", ":"))
    except ValueError:  # a column of the user's own holds what JSON has no word for
        text = json.dumps(_finite(document), default=_plain, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, (datetime, date)) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
