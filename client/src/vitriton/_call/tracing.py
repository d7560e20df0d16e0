"""OpenTelemetry: a span for each attempt of a request, and its context in the request's headers.

Names follow the semantic conventions for RPC, version 1.45.0. The calls over HTTP are those of the same KServe
protocol, so the spans describe them in the same way, and not as HTTP requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitriton._wire.address import parse_address
from vitriton._wire.transport import CallError

_MAX_DESCRIPTION = 500  # characters; a server's error can name thousands of inputs


class OpenTelemetryTracer:
    """Makes spans with the application's tracer provider, which may be set later.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import context, propagate, trace
        except ImportError as exc:
            raise ImportError("tracing needs OpenTelemetry; install it with: pip install 'vitriton[otel]'") from exc
        from vitriton._version import __version__

        self._context = context
        self._propagate = propagate
        self._trace = trace
        self._tracer = trace.get_tracer("vitriton", __version__)

    def context(self) -> Any:
        """The context of the calling thread or task: its current span and baggage."""
        return self._context.get_current()

    def start(
        self, model: str, tower: str, address: str, inputs: int, attempt: int, context: Any = None
    ) -> tuple[Any, Mapping[str, str]]:
        """Starts the span of an attempt; returns the span, for `end`, and the headers to send.

        Args:
            model: the name of the model on the server.
            tower: the noun for an input: image or text.
            address: the server's address.
            inputs: the number of inputs in the request.
            attempt: the number of the attempt, from 1.
            context: the parent context; None means the current one.
        """
        call = _describe(address)
        span = self._tracer.start_span(
            str(call["rpc.method"]),
            context,
            kind=self._trace.SpanKind.CLIENT,
            attributes={**call, "vitriton.model": model, f"vitriton.{tower}s": inputs, "vitriton.attempt": attempt},
        )
        headers: dict[str, str] = {}
        self._propagate.inject(headers, self._trace.set_span_in_context(span, context))
        return span, {name.lower(): value for name, value in headers.items()}

    def end(self, span: Any, error: Exception | None) -> None:
        """Ends a span, with the attempt's error if it failed."""
        if error is None:
            span.set_attribute("rpc.response.status_code", "OK")
        else:
            kind, text = type(error).__qualname__, str(error)
            if isinstance(error, CallError):
                kind, text = error.code.value, error.message
                span.set_attribute("rpc.response.status_code", kind)
            span.set_attribute("error.type", kind)
            span.set_status(self._trace.StatusCode.ERROR, text[:_MAX_DESCRIPTION])
        span.end()


def _describe(address: str) -> dict[str, str | int]:
    """The attributes for the server and the protocol."""
    try:
        server = parse_address(address)
    except ValueError:  # the address of the application's own transport
        return {**_GRPC, "server.address": address}
    protocol = _HTTP if server.scheme in ("http", "https") else _GRPC
    return {**protocol, "server.address": server.host, "server.port": server.port}


_GRPC = {"rpc.system.name": "grpc", "rpc.method": "inference.GRPCInferenceService/ModelInfer"}
_HTTP = {
    "rpc.system.name": "kserve",  # the conventions leave the name of any other system open
    "rpc.method": "ModelInfer",
    "network.protocol.name": "http",
    "network.protocol.version": "1.1",
}
