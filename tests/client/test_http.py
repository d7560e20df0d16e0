"""The HTTP transport: against a real Triton, and what it sends."""

import json
import os
import re
import struct
import threading
import time
import urllib.request

import numpy as np
import pytest
from client.http_tools import (
    LONG_S,
    REPLY,
    connect,
    described,
    fail,
    infer,
    request,
    wait_until,
)
from client.scripted import ScriptedServer
from vitriton._wire.address import Address
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.statistics import by_model
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import ServerMetadata, TensorSpec
from vitriton.testing import CallError, Code


@pytest.fixture
def transport(http_address):
    host, _, port = http_address.rpartition(":")
    transport = connect(int(port), host=host)
    yield transport
    transport.close()


def test_infer(transport, files, embeddings):
    """Images go over, and one tensor comes back."""
    answer = infer(transport, *files[:8])
    assert (answer.name, answer.datatype, answer.shape) == ("embedding", "FP32", (8, 4))
    np.testing.assert_allclose(np.frombuffer(answer.data, "<f4").reshape(8, 4), embeddings[:8], rtol=1e-6)


def test_infer_in_this_thread(transport, files, embeddings):
    """The same without a thread of the transport's."""
    answer = transport.infer(request(*files[:2]), LONG_S)
    np.testing.assert_allclose(np.frombuffer(answer.data, "<f4").reshape(2, 4), embeddings[:2], rtol=1e-6)
    with pytest.raises(CallError, match="NOT_FOUND"):
        transport.infer(request(model="huge_pooled"), LONG_S)
    with pytest.raises(CallError, match="DEADLINE_EXCEEDED"):
        transport.infer(request(b"sleep:1"), 0.2)


def test_large_batches(transport):
    """Thousands of images of odd sizes arrive whole.

    In chunks they would not: Triton hands each on as a buffer of its own, and refuses a length that lies in two.
    """
    images = [b"sleep:0" + b"0" * (index % 97) for index in range(4096)]
    assert infer(transport, *images, model="wide_pooled").shape == (4096, 4)


def test_what_the_server_is(transport):
    """The server's name, version and extensions come back."""
    metadata = transport.server_metadata(LONG_S)
    assert isinstance(metadata, ServerMetadata)
    assert metadata.name == "triton"
    assert "system_shared_memory" in metadata.extensions


def test_models(transport):
    """Readiness, configuration and index are those of the server; an unknown model is not ready."""
    assert transport.is_model_ready("tiny_pooled", LONG_S)
    assert not transport.is_model_ready("huge_pooled", LONG_S)
    config = transport.model_config("tiny_pooled", LONG_S)
    assert (config.name, config.max_batch_size) == ("tiny_pooled", 8)
    assert config.inputs == {"image": TensorSpec(datatype="BYTES", shape=(1,))}
    assert config.outputs == {"embedding": TensorSpec(datatype="FP32", shape=(4,))}
    assert config.parameters["fingerprint"] == "space-1"
    index = {model.name: model for model in transport.repository_index(LONG_S)}
    assert index["tiny_pooled"].ready
    assert index["tiny_pooled"].state == "READY"


def statistics(transport):
    return by_model(transport.statistics(LONG_S))


def test_same_answers_as_grpc(transport, address, files):
    """Both protocols read the same from the same server, errors included."""
    from vitriton._wire.grpc import GrpcTransport

    host, _, port = address.rpartition(":")
    other = GrpcTransport(Address("grpc", host, int(port)), ConnectionSettings())
    try:
        for model in ("tiny_pooled", "wide_pooled", "staged_pooled"):
            assert transport.model_config(model, LONG_S) == other.model_config(model, LONG_S)
        assert sorted(transport.repository_index(LONG_S), key=str) == sorted(other.repository_index(LONG_S), key=str)
        assert transport.server_metadata(LONG_S) == other.server_metadata(LONG_S)
        # The server counts an answer a moment after it, and what a test before has given up may still run.
        wait_until(lambda: statistics(transport) == statistics(other))
        idle = "wide_pooled"
        before = statistics(transport)[idle]
        assert infer(transport, *files[:3], model=idle) == infer(other, *files[:3], model=idle)
        wait_until(lambda: statistics(other)[idle].since(before).requests == 2)
        new = statistics(other)[idle].since(before)
        assert (new.requests, new.images, new.version) == (2, 6, "")
        assert 0 < new.inside_ns <= new.busy_ns <= new.request_ns
        for wrong in (
            {"images": [b"no", b"image"]},
            {"model": "huge_pooled"},
            {"output": "nothing"},
            {"images": files[:9]},
        ):
            images = wrong.pop("images", [b"x"])
            assert described(fail(transport, *images, **wrong)) == described(fail(other, *images, **wrong))
    finally:
        other.close()


def test_deadline(transport):
    """A reply that does not come in time is DEADLINE_EXCEEDED."""
    error = fail(transport, b"sleep:1", timeout_s=0.2)
    assert described(error) == (Code.DEADLINE_EXCEEDED, "no complete answer in 0.2 s")


def test_the_server_knows_the_deadline(transport, server, tmp_path):
    """What waits in the server's queue beyond the request's own time is dropped there."""
    gate, ran, ended = tmp_path / "gate", tmp_path / "ran", threading.Event()
    busy = hold(transport, gate)
    late = transport.send(request(f"touch:{ran}".encode(), timeout_s=0.1), LONG_S)
    late.add_done_callback(ended.set)
    wait_until(lambda: ended.is_set() or waiting(server, "tiny_pooled"))
    time.sleep(0.2)
    gate.touch()
    busy.result()
    with pytest.raises(CallError) as caught:
        late.result()
    assert classify(caught.value.code, caught.value.message) is Failure.QUEUE_TIMEOUT
    assert not ran.exists()


def test_queue_full(transport, tmp_path):
    """A full queue has the same code and text as over gRPC."""
    gate, model, ended = tmp_path / "gate", "narrow_pooled", threading.Event()
    sent = [hold(transport, gate, model)]
    sent += [transport.send(request(b"sleep:0", model=model), LONG_S) for _ in range(7)]
    for pending in sent:
        pending.add_done_callback(ended.set)
    assert ended.wait(LONG_S)  # of one that was turned away, as none is answered
    gate.touch()
    failures = []
    for pending in sent:
        try:
            pending.result()
        except CallError as exc:
            failures.append(classify(exc.code, exc.message))
    assert failures
    assert set(failures) == {Failure.QUEUE_FULL}


def hold(transport, gate, model="tiny_pooled"):
    """A request at which the model stops until there is a file `gate`."""
    pending = transport.send(request(b"hold:" + os.fsencode(gate), model=model), LONG_S)
    wait_until(gate.with_suffix(".held").exists)
    return pending


def waiting(server, model):
    """The number of requests in the queue of a model."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics") as page:
        text = page.read().decode()
    return int(re.search(rf'nv_inference_pending_request_count{{model="{model}".*}} (\d+)', text)[1])


def test_what_is_sent():
    """Headers, token and the request's parameters go as Triton wants them, the body with its length."""
    seen = []

    def script(peer):
        while data := peer.request():
            seen.append(data)
            peer.send(REPLY)

    tokens = iter(["one", "two"])
    with ScriptedServer(script) as server:
        transport = connect(server.port, token=lambda: next(tokens), headers={"x-team": "search"})
        infer(transport, b"ab", b"c", headers={"traceparent": "00-1"})
        transport.send(request(timeout_s=None), LONG_S).result()
        transport.close()
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /v2/models/tiny_pooled/infer http/1.1"
    assert f"host: 127.0.0.1:{server.port}" in lines
    assert "authorization: bearer one" in lines
    assert "x-team: search" in lines
    assert "traceparent: 00-1" in lines
    assert f"content-length: {len(body)}" in lines
    assert not any(line.startswith("transfer-encoding") for line in lines)
    assert any(line.startswith("user-agent: vitriton/") for line in lines)
    length = int(next(line for line in lines if line.startswith("inference-header")).split(":")[1])
    assert body[length:] == struct.pack("<I", 2) + b"ab" + struct.pack("<I", 1) + b"c"
    document = json.loads(body[:length])
    assert document["inputs"][0]["shape"] == [2, 1]
    assert document["inputs"][0]["parameters"] == {"binary_data_size": 11}
    assert document["outputs"] == [{"name": "embedding", "parameters": {"binary_data": True}}]
    assert 0 < document["parameters"]["timeout"] <= LONG_S * 1e6
    assert b"Bearer two" in seen[1]
    assert b"timeout" not in seen[1]


def broken():
    raise KeyError("vault")


@pytest.mark.parametrize(("token", "says"), [(broken, "KeyError"), (lambda: "a\nb", "not printable ASCII")])
def test_a_token_that_cannot_be_had(token, says):
    """A token function that fails is a failed call; a token that cannot be sent is not shown."""
    transport = connect(1, token=token)
    error = fail(transport)
    assert error.code is Code.UNAUTHENTICATED
    assert says in error.message
    assert "a\nb" not in error.message
    transport.close()
