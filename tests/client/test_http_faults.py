"""Servers that misbehave in every way: always a CallError, in time, that a retry policy can judge."""

import pytest
from client.http_tools import (
    BODY,
    HEAD,
    LONG_S,
    PAGE,
    REPLY,
    connect,
    described,
    fail,
    infer,
    replies,
    reply,
    serve,
    tensor,
)
from client.scripted import ScriptedServer, http
from vitriton._options import MAX_MESSAGE_BYTES
from vitriton._wire.kserve import read_error
from vitriton._wire.status import Failure, classify
from vitriton.testing import CallError, Code


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        # what is no HTTP, or not all of it
        (b"", Code.UNAVAILABLE, "the connection was lost"),
        (HEAD[:20], Code.UNAVAILABLE, "the connection was lost"),
        (HEAD, Code.UNAVAILABLE, "the connection was lost"),
        (REPLY[:-1], Code.UNAVAILABLE, "the body ended 1 bytes too early"),
        (HEAD + b"\r\n\r\n", Code.UNAVAILABLE, "too early"),
        (b"\0\0\x12\x04\0\0\0\0\0\0\x03", Code.UNAVAILABLE, "does not speak HTTP"),
        (b"garbage\r\n" * 3, Code.UNAVAILABLE, "does not speak HTTP"),
        (b"x" * 100_000, Code.UNAVAILABLE, "does not speak HTTP"),
        (b"HTTP/1.1 wrong\r\n\r\n", Code.UNAVAILABLE, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n", Code.UNAVAILABLE, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Code.UNAVAILABLE, "the connection was lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", Code.UNAVAILABLE, "the connection was lost"),
        # HTTP, and no reply of Triton's
        (http("200 OK", PAGE), Code.UNIMPLEMENTED, "not JSON: '<html>"),
        (http("200 OK", b""), Code.UNIMPLEMENTED, "not JSON"),
        (http("200 OK", b"[" * 100_000), Code.UNIMPLEMENTED, "not JSON"),
        (http("200 OK", b"\xff\xfe\0"), Code.UNIMPLEMENTED, "not JSON"),
        (http("200 OK", b"{}"), Code.DATA_LOSS, "does not describe a tensor: '{}'"),
        (http("200 OK", b'{"outputs": []}'), Code.DATA_LOSS, "does not describe a tensor"),
        (http("200 OK", b'{"outputs": [{"name": 1}]}'), Code.DATA_LOSS, "does not describe a tensor"),
        (reply(shape=[1, -2]), Code.DATA_LOSS, "the shape of embedding is [1, -2]"),
        (reply(shape=[True, 2.5, "a"]), Code.DATA_LOSS, "the shape of embedding is [True, 2.5, 'a']"),
        (reply(parameters={"binary_data_size": 9}), Code.DATA_LOSS, "9 bytes of embedding, and has 8"),
        (reply(parameters={}), Code.DATA_LOSS, "says None for the number of bytes of embedding"),
        (reply(parameters=[]), Code.DATA_LOSS, "says None for the number of bytes of embedding"),
        (
            http("200 OK", BODY, "Inference-Header-Content-Length: 9999"),
            Code.DATA_LOSS,
            "inference-header-content-length is",
        ),
        (http("200 OK", BODY, "Inference-Header-Content-Length: many"), Code.DATA_LOSS, "is 'many'"),
        (http("200 OK", BODY, "Inference-Header-Content-Length: 5"), Code.UNIMPLEMENTED, "not JSON"),
        (http("200 OK", BODY, "Inference-Header-Content-Length: -5"), Code.DATA_LOSS, "is '-5'"),
        # more than there may be
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3000000000\r\n\r\n",
            Code.RESOURCE_EXHAUSTED,
            f"larger than max (3000000000 bytes, over the limit of {MAX_MESSAGE_BYTES})",
        ),
        # statuses
        (http("400 Bad Request", b'{"error": "bad"}'), Code.INVALID_ARGUMENT, "bad"),
        (http("503 Service Unavailable", b'{"error": "Server not ready"}'), Code.UNAVAILABLE, "Server not ready"),
        (
            http("502 Bad Gateway", PAGE),
            Code.UNAVAILABLE,
            "the server answered 502 Bad Gateway, which does not come from Triton's inference API",
        ),
        (http("301 Moved", b"", "Location: /other"), Code.UNKNOWN, "the server answered 301 Moved"),
        (http("500 Internal Server Error", b"x" * 3_000_000), Code.UNKNOWN, "500 Internal Server Error"),
    ],
)
def test_strange_answers(answer, code, says):
    """Whatever answers, the outcome is a CallError that a retry policy can judge."""

    def script(peer):
        peer.request()
        peer.send(answer)

    with ScriptedServer(script) as server:
        transport = connect(server.port)
        error = fail(transport)
        transport.close()
    assert says in error.message
    assert error.code is code
    assert error.message.isprintable()
    assert len(error.message) < 500


COUNTS = tensor("counts", [1, 1], 4), b"abcd"
EMBEDDING = tensor("embedding", [1, 2], 8), bytes(8)


def test_several_tensors():
    """Each of a response's tensors gets its own bytes, in the order of the request."""
    with serve(replies(COUNTS, EMBEDDING)) as server:
        transport = connect(server.port)
        answer = infer(transport, beside=("counts",))
        transport.close()
    assert (answer.name, answer.data) == ("embedding", bytes(8))
    assert [(other.name, other.shape, other.data) for other in answer.beside] == [("counts", (1, 1), b"abcd")]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (replies(EMBEDDING), "holds embedding; counts and one more were asked for"),
        (replies(EMBEDDING, EMBEDDING), "holds embedding, embedding; counts and one more"),
        (replies(COUNTS, COUNTS), "holds counts, counts; counts and one more"),
        (replies(EMBEDDING, (tensor("counts", [1, 1], 5), b"abcd")), "13 bytes of embedding, counts, and has 12"),
        (replies(EMBEDDING, (tensor("counts", [1, 1], -4), b"")), "says -4 for the number of bytes of counts"),
        (replies(EMBEDDING, ({"name": "counts"}, b"")), "does not describe a tensor"),
    ],
)
def test_several_strange_tensors(answer, says):
    """Tensors that were not requested, or not of the size that they say, are a failure."""
    with serve(answer) as server:
        transport = connect(server.port)
        error = fail(transport, beside=("counts",))
        transport.close()
    assert (error.code, says in error.message) == (Code.DATA_LOSS, True), error.message


def test_an_answer_without_length():
    """A body in chunks, or one that ends with the connection, is as good as one with a length."""
    pieces = [BODY[:7], BODY[7:50], BODY[50:]]
    length = next(line for line in HEAD.split(b"\r\n") if line.startswith(b"Inference"))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + length + b"\r\n\r\n"
    chunked += b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    closed = b"HTTP/1.0 200 OK\r\n" + length + b"\r\n\r\n" + BODY

    def script(peer):
        peer.request()
        peer.send(closed if peer.number else chunked)
        if peer.number == 0:
            peer.request()

    with ScriptedServer(script) as server:
        transport = connect(server.port)
        assert infer(transport).shape == (1, 2)
        assert infer(transport).data == bytes(8)
        transport.close()


@pytest.mark.parametrize("answer", [b"H", HEAD + b"\r\n\r\n" + b"{", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_dripping(answer):
    """A server that sends a byte now and then, for ever, costs no more than the time that was given."""

    def script(peer):
        peer.request()
        peer.send(answer[:-1])
        peer.drip(answer[-1:] if b"100" not in answer else answer)

    with ScriptedServer(script) as server:
        transport = connect(server.port)
        assert fail(transport, timeout_s=0.3).code is Code.DEADLINE_EXCEEDED
        transport.close()


def test_silence():
    """A server that says nothing costs no more than the time that was given, whatever is asked."""
    with ScriptedServer(lambda peer: peer.wait()) as server:
        transport = connect(server.port)
        for call in (
            lambda: infer(transport, timeout_s=0.1),
            lambda: infer(transport, bytes(32 * 2**20), timeout_s=0.2),
            lambda: transport.is_model_ready("m", 0.1),
            lambda: transport.model_config("m", 0.1),
            lambda: transport.repository_index(0.1),
            lambda: transport.server_metadata(0.1),
            lambda: infer(transport, timeout_s=0.0),
        ):
            with pytest.raises(CallError) as caught:
                call()
            assert caught.value.code is Code.DEADLINE_EXCEEDED
        transport.close()


def test_nobody_listens():
    """A refused connection and an unknown name are UNAVAILABLE, and say so."""
    transport = connect(1)
    assert described(fail(transport)) == (
        Code.UNAVAILABLE,
        "failed to connect: 127.0.0.1 port 1: Connection refused",
    )
    transport.close()
    transport = connect(1, host="no-such-host.invalid")
    error = fail(transport)
    assert error.code is Code.UNAVAILABLE
    assert "the host name no-such-host.invalid cannot be looked up" in error.message
    transport.close()


@pytest.mark.parametrize("body", [b"", b"x" * 200, bytes(2 * 2**20)])
def test_a_page_for_everything(body):
    """A web server that answers everything with 200 is not taken for a Triton."""
    with serve(http("200 OK", body)) as server:
        transport = connect(server.port)
        for call in (
            lambda: transport.model_config("m", LONG_S),
            lambda: transport.repository_index(LONG_S),
            lambda: transport.server_metadata(LONG_S),
            lambda: infer(transport),
        ):
            with pytest.raises(CallError) as caught:
                call()
            assert caught.value.code in (Code.UNIMPLEMENTED, Code.DATA_LOSS)
        if body:
            with pytest.raises(CallError, match="has a body"):
                transport.is_model_ready("m", LONG_S)
        transport.close()


@pytest.mark.parametrize(
    "document", ["1", "null", "[]", '{"name": 1}', '{"name": "a", "input": 1}', "[1]", '[{"a": 1}]']
)
def test_nonsense_in_json(document):
    """JSON of another form than Triton's is DATA_LOSS, wherever it comes."""
    with serve(http("200 OK", document.encode())) as server:
        transport = connect(server.port)
        with pytest.raises(CallError, match="DATA_LOSS"):
            transport.model_config("m", LONG_S)
        with pytest.raises(CallError, match="DATA_LOSS"):
            transport.server_metadata(LONG_S)
        if document != "[]":  # no models
            with pytest.raises(CallError, match="DATA_LOSS"):
                transport.repository_index(LONG_S)
        transport.close()


@pytest.mark.parametrize(
    ("status", "body", "code", "failure"),
    [
        (400, b'{"error":"inference request batch-size"}', Code.INVALID_ARGUMENT, Failure.BAD_REQUEST),
        (400, b"", Code.INTERNAL, Failure.OTHER),
        (401, b"no", Code.UNAUTHENTICATED, Failure.RESTRICTED),
        (401, b'{"error":"no"}', Code.UNAUTHENTICATED, Failure.RESTRICTED),
        (403, b'{"error":"This API is restricted"}', Code.PERMISSION_DENIED, Failure.RESTRICTED),
        (403, PAGE, Code.PERMISSION_DENIED, Failure.RESTRICTED),
        (404, b'{"error":"Request for unknown model: \'m\' is not found"}', Code.NOT_FOUND, Failure.UNKNOWN_MODEL),
        (404, b'{"error":"Not Found"}', Code.UNIMPLEMENTED, Failure.UNREACHABLE),
        (404, PAGE, Code.UNIMPLEMENTED, Failure.UNREACHABLE),
        (408, b"", Code.UNAVAILABLE, Failure.UNREACHABLE),
        (413, PAGE, Code.RESOURCE_EXHAUSTED, Failure.TOO_LARGE),
        (429, b"", Code.UNAVAILABLE, Failure.RATE_LIMITED),
        (499, b"", Code.CANCELLED, Failure.CANCELLED),
        (500, b'{"error":"Stub process \'m_0_0\' is not healthy."}', Code.INTERNAL, Failure.MODEL_DIED),
        (500, PAGE, Code.UNKNOWN, Failure.OTHER),
        (501, b'{"error":"decoupled"}', Code.UNIMPLEMENTED, Failure.UNREACHABLE),
        (503, b'{"error":"Exceeds maximum queue size"}', Code.UNAVAILABLE, Failure.QUEUE_FULL),
        (503, b'{"error":1}', Code.UNAVAILABLE, Failure.UNREACHABLE),
        (503, b"\xff", Code.UNAVAILABLE, Failure.UNREACHABLE),
        (504, PAGE, Code.UNAVAILABLE, Failure.UNREACHABLE),
        (599, b"", Code.UNKNOWN, Failure.OTHER),
    ],
)
def test_statuses(status, body, code, failure):
    """Triton's statuses are those that gRPC would give; a gateway's are what gRPC would make of them."""
    error = read_error(status, "Reason", body)
    assert error.code is code
    assert classify(error.code, error.message) is failure
