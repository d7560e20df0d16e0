"""OpenTelemetry: spans for requests, and their context on the wire."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from client.both import KINDS, make_client
from client.conftest import write_model
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from vitriton import Client, ContractMismatch, DeadlineExceeded, InferenceFailed, InvalidImage, Options
from vitriton._call.tracing import OpenTelemetryTracer
from vitriton.testing import CallError, Code, FakeTransport, InferReply, busy, invalid_images, unavailable
from vitriton_server import TritonServer

PATIENCE_S = 60.0
MINE = trace.get_tracer("the application")


@pytest.fixture
def spans():
    """A function: the client's own spans that have ended, oldest first."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):  # it can be set once in a process
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield lambda: [span for span in exporter.get_finished_spans() if span.instrumentation_scope.name == "vitriton"]
    exporter.shutdown()


@pytest.fixture(params=KINDS)
def client_on(request):
    """Makes clients of one kind on a transport, with tracing; closes them."""
    with contextlib.ExitStack() as stack:

        def make(transport, **options):
            options = Options(initial_backoff_s=0.001, max_backoff_s=0.002, **options)
            client = make_client(request.param)("", model="m", transport=transport, options=options, tracing=True)
            return stack.enter_context(client)

        yield make


def images(count):
    return [b"%d" % number for number in range(count)]


def traceparent(span):
    """What W3C's Trace Context says of a span, without the flags."""
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"


def sent_parents(transport):
    return [request.headers["traceparent"].rpartition("-")[0] for request in transport.requests]


def test_a_span_for_each_request(spans, client_on):
    """It has the conventions' names, the caller's span as its parent, and goes along in the headers."""
    transport = FakeTransport(max_batch_size=8)
    with MINE.start_as_current_span("job") as job:
        client_on(transport).embed(images(5))
    (span,) = spans()
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    assert span.kind is SpanKind.CLIENT
    assert span.parent == job.get_span_context()
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "server.address": "fake",
        "server.port": 8001,
        "vitriton.model": "m_pooled",
        "vitriton.images": 5,
        "vitriton.attempt": 1,
    }
    assert sent_parents(transport) == [traceparent(span)]


def test_each_attempt_has_its_own(spans, client_on):
    """Failed ones say why; all are children of the caller's span."""
    transport = FakeTransport(faults=[unavailable(), busy()])
    with MINE.start_as_current_span("job") as job:
        client_on(transport).embed(images(1))
    assert [span.attributes["vitriton.attempt"] for span in spans()] == [1, 2, 3]
    assert [span.attributes["rpc.response.status_code"] for span in spans()] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]
    assert [span.attributes.get("error.type") for span in spans()] == ["UNAVAILABLE", "UNAVAILABLE", None]
    assert [span.status.description for span in spans()] == [unavailable().message, busy().message, None]
    assert [span.status.is_ok for span in spans()] == [False, False, True]
    assert {span.parent.span_id for span in spans()} == {job.get_span_context().span_id}
    assert sent_parents(transport) == [traceparent(span) for span in spans()]


def test_all_of_a_stream_belongs_to_its_caller(spans, client_on):
    """Late requests and retries have the caller's span as their parent, not those that the source opens."""

    def source():
        for image in images(100):
            with MINE.start_as_current_span("read"):
                yield image

    transport = FakeTransport(max_batch_size=4, faults=[None, unavailable(), None] * 5)
    with MINE.start_as_current_span("job") as job:
        assert len(list(client_on(transport).stream(source()))) == 100
    assert len(spans()) == len(transport.requests) > 25
    assert {span.parent.span_id for span in spans()} == {job.get_span_context().span_id}


def test_images_that_cannot_be_used(spans, client_on):
    """The request that they failed is an error; the one that was sent without them is not."""

    class Transport(FakeTransport):
        def respond(self, request):
            errors = {position: "bad" for position, image in enumerate(request.images) if image == b"3"}
            if errors:
                raise invalid_images(errors, len(request.images))
            return super().respond(request)

    client_on(Transport()).embed(images(5), on_error="return")
    assert [span.attributes["rpc.response.status_code"] for span in spans()] == ["INVALID_ARGUMENT", "OK"]
    assert [span.attributes["vitriton.images"] for span in spans()] == [5, 4]
    with pytest.raises(InvalidImage):
        client_on(Transport()).embed(images(5))
    assert spans()[-1].status.status_code is StatusCode.ERROR


def test_a_long_error_is_cut(spans, client_on):
    """A server's text may be of any length; a span's is not."""
    transport = FakeTransport(faults=[CallError(Code.UNKNOWN, "x" * 100_000)])
    with pytest.raises(InferenceFailed):
        client_on(transport).embed(images(1))
    assert spans()[0].status.description == "x" * 500


def test_what_is_given_up_is_an_error(spans, client_on):
    """A request that has no answer at the deadline, or when a stream is closed, ends with CANCELLED."""
    transport = FakeTransport(answers_at_once=False)
    client = client_on(transport)
    with pytest.raises(DeadlineExceeded):
        client.embed(iter(images(1)), timeout_s=1.0)
    assert [span.attributes["error.type"] for span in spans()] == ["CANCELLED"]


def test_a_reply_that_is_not_what_was_promised(spans, client_on):
    """It ends the span as an error too."""

    class Transport(FakeTransport):
        def respond(self, request):
            return InferReply(name="other", datatype="FP32", shape=(1,), data=b"1234")

    with pytest.raises(ContractMismatch):
        client_on(Transport()).embed(images(1))
    assert [span.status.status_code for span in spans()] == [StatusCode.ERROR]


def test_without_a_current_span(spans, client_on):
    """Requests then have traces of their own."""
    transport = FakeTransport(max_batch_size=1)
    client_on(transport).embed(images(2))
    assert [span.parent for span in spans()] == [None, None]
    assert len({span.context.trace_id for span in spans()}) == 2


def test_baggage_travels_along(spans, client_on):
    """What the application's propagators send is sent: W3C's baggage is one of the default ones."""
    transport = FakeTransport()
    token = context.attach(baggage.set_baggage("tenant", "müller & co"))
    try:
        client_on(transport).embed(images(1))
    finally:
        context.detach(token)
    assert transport.requests[0].headers["baggage"] == "tenant=m%C3%BCller+%26+co"


@pytest.mark.parametrize("kind", KINDS)
def test_off_unless_it_is_asked_for(spans, kind):
    """Without tracing=True there are neither spans nor headers."""
    transport = FakeTransport()
    with MINE.start_as_current_span("job"), make_client(kind)("", model="m", transport=transport) as client:
        client.embed(images(1))
    assert spans() == []
    assert transport.requests[0].headers == {}


def test_a_transport_of_the_application(spans):
    """Its address may be of any form."""
    transport = FakeTransport()
    transport.address = "unix:///run/triton.sock"
    with Client("", model="m", transport=transport, tracing=True) as client:
        client.embed(images(1))
    assert spans()[0].attributes["server.address"] == "unix:///run/triton.sock"
    assert "server.port" not in spans()[0].attributes


def test_http_is_the_same_protocol(spans):
    """Over HTTP the names of the attributes are those of gRPC, so that one query finds both."""
    tracer = OpenTelemetryTracer()
    tracer.end(tracer.start("m", "image", "https://[::1]:8000", 1, 1)[0], None)
    (span,) = spans()
    assert span.name == span.attributes["rpc.method"] == "ModelInfer"
    assert span.attributes["rpc.system.name"] == "kserve"
    assert span.attributes["network.protocol.name"] == "http"
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("::1", 8000)


# A real Triton, which reports spans of its own to a collector


class Collector(BaseHTTPRequestHandler):
    """Takes traces as OTLP in JSON, which is what Triton sends."""

    def do_POST(self):
        traces = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in traces["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    self.server.spans.put(span)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def collector():
    """Where a Triton sends its spans to; they are in `spans`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.spans = queue.SimpleQueue()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def traced(subprocesses, tmp_path_factory, collector):
    """A real Triton that traces every request."""
    repository = tmp_path_factory.mktemp("traced") / "repository"
    write_model(repository, "tiny_pooled", fingerprint="space-1")
    settings = (
        "mode=opentelemetry",
        "rate=1",
        "level=TIMESTAMPS",
        f"opentelemetry,url=http://127.0.0.1:{collector.server_port}/v1/traces",
        "opentelemetry,bsp_schedule_delay=50",
    )
    with TritonServer(repository, triton_arguments=[f"--trace-config={setting}" for setting in settings]) as server:
        yield server


@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize("kind", KINDS)
def test_triton_goes_on_with_the_trace(spans, traced, collector, files, kind, scheme):
    """The span that a real Triton reports for a request is the child of the client's, over gRPC and HTTP."""
    address = f"{scheme}://{traced.grpc_address if scheme == 'grpc' else traced.http_address}"
    with make_client(kind)(address, model="tiny", tracing=True) as client:
        for _ in range(20):  # over gRPC, Triton 2.51.0 overlooks the header of one request in ten or so
            client.embed(files[:1])
            theirs = next_of(collector, "InferRequest")
            sent = {f"{span.context.trace_id:032x}": f"{span.context.span_id:016x}" for span in spans()}
            if theirs["traceId"] in sent:
                break
    assert theirs["parentSpanId"] == sent[theirs["traceId"]]


def next_of(collector, name):
    while (span := collector.spans.get(timeout=PATIENCE_S))["name"] != name:
        pass
    return span


# Without the extra


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_without_opentelemetry(kind):
    """The error is the pip command; without tracing nothing is missing."""
    told = run(
        f"""
import sys
sys.modules["opentelemetry"] = None  # as if it were not installed
from vitriton import {kind}
from vitriton.testing import FakeTransport
{kind}("", model="m", transport=FakeTransport())
try:
    {kind}("", model="m", transport=FakeTransport(), tracing=True)
except ImportError as error:
    print(error)
"""
    )
    assert told == "tracing needs OpenTelemetry; install it with: pip install 'vitriton[otel]'\n"


@pytest.mark.usefixtures("subprocesses")
def test_not_imported_unless_it_is_used():
    """Whoever does not trace does not pay for it."""
    code = "import sys; from vitriton import Client; Client('localhost:1', model='m').close(); "
    assert run(code + "print('opentelemetry' in sys.modules)") == "False\n"
