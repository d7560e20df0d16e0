"""The ASGI application: the routes, and what each answers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import uuid4

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from vitriton import ClientError, ContractMismatch

from vitriton_api import _openapi
from vitriton_api._config import ApiOptions
from vitriton_api._dialects import cohere, openai
from vitriton_api._dialects.request import AnswerRow, EmbeddingRequest, Rules
from vitriton_api._embedding import check, embed, unless_gone
from vitriton_api._errors import RequestRefused, refusal_of
from vitriton_api._keys import Keys
from vitriton_api._limits import Admission, read_body
from vitriton_api._metrics import Metrics
from vitriton_api._models import EmbeddingModel, Models, Upstream

_LOG = logging.getLogger("vitriton.api")

EXPECT_FINGERPRINT = "x-vitriton-expect-fingerprint"
FINGERPRINT = "x-vitriton-fingerprint"
_LEFT = 499  # nginx's number for a caller that has left; nobody reads it but the metrics
_LARGE = 1024 * 1024  # bytes of a body that is parsed beside the event loop

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class RequestTrace:
    """A request, as the log names it.

    Attributes:
        id: the caller's own `x-request-id`, or one that was made.
        key: the name of the API key; None: none was needed, or it is unknown.
        model: the name of the model; None: it is not known yet.
        fingerprint: the model's fingerprint; None: it is not known yet, or the model has none.
        code: the code of the error that it was refused with; empty if it was not.
    """

    id: str
    key: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    code: str = ""

    def __str__(self) -> str:
        """The request in a line of the log; names from the caller cannot break it."""
        key, model = (ascii(name[:100]) if name else "-" for name in (self.key, self.model))
        return f"request {self.id}, key {key}, model {model}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of its answer, whatever that is."""
        return {REQUEST_ID: self.id, **({FINGERPRINT: self.fingerprint} if self.fingerprint else {})}


class Endpoint:
    """The application, and its state.

    Args:
        options: the options of the command.
        upstream: where the models are.
        keys: the API keys; None: none is needed.

    Attributes:
        app: the application.
        models: the models behind it.
        draining: whether a stop has begun.
        cut_off: the number of requests that a stop has ended without an answer.
    """

    def __init__(self, options: ApiOptions, upstream: Upstream, keys: Keys | None = None) -> None:
        self._options = options
        self._keys = keys
        self._rules = Rules(max_inputs=options.max_inputs, fetches_urls=options.fetch_urls)
        self._admission = Admission(options.max_in_flight, options.max_held_bytes)
        self._metrics = Metrics()
        # A single thread: several copies of a large body are in memory while it is parsed
        self._parser = ThreadPoolExecutor(1, "vitriton-api-parser")
        self._started_s = int(time.time())
        self.models = Models(upstream)
        self.draining = False
        self.cut_off = 0
        routes = (
            ("/v1/embeddings", "POST", self._embeddings),
            ("/v2/embed", "POST", self._embed),
            ("/v1/models", "GET", self._list_models),
            ("/v1/models/{model}", "GET", self._show_model),
            ("/health/live", "GET", self._live),
            ("/health/ready", "GET", self._ready),
            ("/metrics", "GET", self._show_metrics),
            ("/openapi.json", "GET", self._description),
        )
        self.app = Starlette(
            routes=[Route(path, self._answered(path, handler), methods=[method]) for path, method, handler in routes],
            exception_handlers={HTTPException: _not_routed},
            lifespan=self._lifespan,
        )
        self.app.router.redirect_slashes = False

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.models.start()
        try:
            yield
        finally:
            await self.models.close()
            self._parser.shutdown(wait=False)

    def _answered(self, route: str, handler: Handler) -> Handler:
        """A handler whose errors become answers, and which is counted."""

        async def answer(request: Request) -> Response:
            start_s, trace = time.perf_counter(), _trace_of(request)
            try:
                response = await _refusing(handler, request)
            except asyncio.CancelledError:  # the time for running requests is over
                self.cut_off += 1
                response = _refused(RequestRefused("the endpoint is stopping", status=503, code="stopping"), trace)
            response.headers.update(trace.headers)
            taken_s = time.perf_counter() - start_s
            self._metrics.requests.labels(route, response.status_code).inc()
            self._metrics.seconds.labels(route).observe(taken_s)
            if self._options.access_log:
                status = f"{response.status_code} {trace.code}".rstrip()
                _LOG.info("%s %s: %s in %.3f s; %s", request.method, route, status, taken_s, trace)
            return response

        return answer

    async def _embeddings(self, request: Request) -> Response:
        return await self._embed_with(openai, request)

    async def _embed(self, request: Request) -> Response:
        return await self._embed_with(cohere, request)

    async def _embed_with(self, dialect: ModuleType, request: Request) -> Response:
        self._check_key(request)
        options = self._options
        with self._admission.enter() as place:
            body = await read_body(
                request.receive,
                request.headers,
                place,
                max_bytes=options.max_body_bytes,
                timeout_s=options.body_timeout_s,
            )
            place.begin()
            if len(body) < _LARGE:
                asked = _parsed(dialect, body, self._rules)
            else:
                loop = asyncio.get_running_loop()
                asked = await loop.run_in_executor(self._parser, _parsed, dialect, body, self._rules)
            expected = request.headers.get(EXPECT_FINGERPRINT)
            if expected == "":
                text = f"{EXPECT_FINGERPRINT} is empty; send a fingerprint, or leave the header out"
                raise RequestRefused(text, param=EXPECT_FINGERPRINT)
            trace = _trace_of(request)
            trace.model = asked.model
            rows = await unless_gone(request.receive, self._rows(asked, expected, trace))
            self._count(asked, rows)
            hidden = [f"{row.fault.where}: {row.fault.detail}" for row in rows if row.fault and row.fault.detail]
            if hidden:
                _LOG.info("null rows: %s; %s", _printable("; ".join(hidden)), trace)
            return _json(dialect.answer(asked, rows))

    async def _rows(self, asked: EmbeddingRequest, expected: str | None, trace: RequestTrace) -> list[AnswerRow]:
        """The rows of a request.

        If the server has the model in another embedding space since it was looked at, it is asked again, once.
        """
        model = await self._model(asked.model, expected, trace)
        timeout_s = self._options.timeout_s
        try:
            return await embed(asked, model, check(asked, model), timeout_s)
        except ContractMismatch:
            await self.models.look()
            now = await self._model(asked.model, expected, trace)
            if now.client is model.client:
                raise
            return await embed(asked, now, check(asked, now), timeout_s)

    async def _model(self, name: str, expected: str | None, trace: RequestTrace) -> EmbeddingModel:
        model = self.models.get(name)
        if expected is not None and model.info.fingerprint != expected:
            await self.models.look()
            model = self.models.get(name)
        trace.fingerprint = model.info.fingerprint
        if expected is not None and model.info.fingerprint != expected:
            text = (
                f"the model {name} has the fingerprint {model.info.fingerprint}, and {expected[:100]} was expected "
                f"({EXPECT_FINGERPRINT}): vectors of the two must not be mixed"
            )
            raise RequestRefused(text, status=409, code="fingerprint", param=EXPECT_FINGERPRINT)
        return model

    async def _list_models(self, request: Request) -> Response:
        self._check_key(request)
        return _json({"object": "list", "data": [self._model_object(model) for model in self.models.listed()]})

    async def _show_model(self, request: Request) -> Response:
        self._check_key(request)
        return _json(self._model_object(self.models.get(request.path_params["model"])))

    def _model_object(self, model: EmbeddingModel) -> dict[str, Any]:
        info, rules = model.info, model.info.texts
        return {
            "id": info.name,
            "object": "model",
            "created": self._started_s,
            "owned_by": "vitriton",
            "ready": model.ready,
            "fingerprint": info.fingerprint,
            "modalities": model.towers,
            "dimensions": next(filter(None, map(model.dimensions, model.towers)), None),
            "precision": info.precision,
            "pooling": info.pooling,
            "source": info.source,
            "max_input_tokens": None if rules is None else rules.max_length,
            "prompts": [] if rules is None else list(rules.prompts),
        }

    async def _live(self, request: Request) -> Response:
        return _json({"status": "live"})

    async def _ready(self, request: Request) -> Response:
        problem = self._not_ready()
        if problem is not None:
            return _refused(RequestRefused(problem, status=503, code="not_ready"))  # the log has it once, from the look
        return _json({"status": "ready"})

    def _not_ready(self) -> str | None:
        return "the endpoint is stopping" if self.draining else self.models.problem

    async def _show_metrics(self, request: Request) -> Response:
        metrics = self._metrics
        metrics.in_flight.set(self._admission.requests)
        metrics.arriving.set(self._admission.arriving)
        metrics.held.set(self._admission.bytes)
        metrics.ready.set(self._not_ready() is None)
        return Response(metrics.text(), media_type=metrics.content_type)

    async def _description(self, request: Request) -> Response:
        # What `/v1/models` needs a key for is not shown here
        shown = self.models.all if self._keys is None else []
        models = {model.info.name: model.towers for model in shown}
        return _json(_openapi.description(self._options, models, has_keys=self._keys is not None))

    def _check_key(self, request: Request) -> None:
        if self._keys is not None:
            _trace_of(request).key = self._keys.check(request.headers.get("authorization", ""))

    def _count(self, asked: EmbeddingRequest, rows: list[AnswerRow]) -> None:
        for tower in ("image", "text"):
            done = sum(each.tower == tower and not row.fault for each, row in zip(asked.inputs, rows, strict=True))
            if done:
                self._metrics.inputs.labels(asked.model, tower).inc(done)
        tokens = sum(row.tokens for row in rows)
        if tokens:
            self._metrics.tokens.labels(asked.model).inc(tokens)


def _parsed(dialect: ModuleType, body: bytearray, rules: Rules) -> EmbeddingRequest:
    """The request in a body, which is emptied: text and decoded images need memory enough."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestRefused(f"the body is not JSON: {exc}", code="invalid_json") from exc
    body.clear()
    asked: EmbeddingRequest = dialect.read(document, rules)
    return asked


async def _refusing(handler: Handler, request: Request) -> Response:
    trace = _trace_of(request)
    try:
        return await handler(request)
    except RequestRefused as exc:
        return _refused(exc, trace)
    except ClientDisconnect:
        return Response(status_code=_LEFT)
    except ClientError as exc:
        return _refused(refusal_of(exc), trace)
    # Whatever it is, callers get an answer in the usual form, and the log has the rest.
    except Exception:
        _LOG.exception("a request failed; %s", trace)
        return _refused(RequestRefused("the endpoint has failed; its log says why", status=500, code="internal"))


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _refused(_no_route(request, error))
    response.headers.update(_trace_of(request).headers)
    return response


def _no_route(request: Request, error: HTTPException) -> RequestRefused:
    if error.status_code == 405:
        refusal = RequestRefused(f"{request.method} is not taken here", status=405, code="method")
        refusal.allow = (error.headers or {}).get("Allow", "")
        return refusal
    slash = "; leave out the slash at its end" if request.url.path.endswith("/") else ""
    return RequestRefused(f"there is nothing at this path{slash}; see /openapi.json", status=404, code="path")


def _trace_of(request: Request) -> RequestTrace:
    """What is known of a request; it begins with the id."""
    if not hasattr(request.state, "trace"):
        given = request.headers.get(REQUEST_ID, "")
        request.state.trace = RequestTrace(given if _REQUEST_ID.fullmatch(given) else uuid4().hex)
    trace: RequestTrace = request.state.trace
    return trace


def _refused(refusal: RequestRefused, trace: RequestTrace | None = None) -> Response:
    """The answer; with `trace`, a line of the log says what the caller does not read, or that it is not their fault."""
    if trace is not None:
        trace.code = refusal.code
    if trace is not None and (refusal.status >= 500 or refusal.detail):
        level = logging.WARNING if refusal.status >= 500 else logging.INFO
        text = _printable(refusal.detail or str(refusal))
        _LOG.log(level, "%d %s: %s; %s", refusal.status, refusal.code, text, trace)
    return _json(refusal.body, status=refusal.status, headers=refusal.headers)


def _printable(text: str) -> str:
    """A text for the log: what a caller has put into it cannot break the line, or color it."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _json(document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")
