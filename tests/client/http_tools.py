"""What the tests of the HTTP transport share."""

import json
import threading

import pytest
from client.scripted import ScriptedServer, http
from vitriton._wire.address import Address
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.http import HttpTransport
from vitriton.testing import CallError, InferRequest

LONG_S = 60.0


def connect(port, *, scheme="http", host="127.0.0.1", **settings):
    return HttpTransport(Address(scheme, host, port), ConnectionSettings(**settings))


def request(*images, model="tiny_pooled", output="embedding", timeout_s=LONG_S, **more):
    return InferRequest(
        model=model,
        input_name="image",
        images=images or [b"image"],
        output_name=output,
        timeout_s=timeout_s,
        **more,
    )


def infer(transport, *images, timeout_s=LONG_S, **more):
    return transport.send(request(*images, **more), timeout_s).result()


def reply(shape=(1, 2), data=bytes(8), **changes):
    """A response as Triton sends it."""
    return replies((tensor("embedding", shape, len(data), **changes), data))


def tensor(name, shape, size, **changes):
    """The description of an FP32 tensor in a response."""
    described = {"name": name, "datatype": "FP32", "shape": list(shape), "parameters": {"binary_data_size": size}}
    return {**described, **changes}


def replies(*tensors):
    """A response with several tensors: their descriptions and their data."""
    outputs = [described for described, _ in tensors]
    head = json.dumps({"model_name": "m", "model_version": "1", "outputs": outputs}).encode()
    data = b"".join(data for _, data in tensors)
    return http("200 OK", head + data, f"Inference-Header-Content-Length: {len(head)}")


def serve(answer):
    """A server that answers every request of every connection with the same bytes."""

    def script(peer):
        while peer.request():
            peer.send(answer)

    return ScriptedServer(script)


def fail(transport, *images, timeout_s=LONG_S, **more):
    with pytest.raises(CallError) as caught:
        infer(transport, *images, timeout_s=timeout_s, **more)
    return caught.value


def wait_until(condition):
    """Looks until it is so; the test fails when that takes a minute."""
    ended = threading.Event()
    for _ in range(6000):
        if condition():
            return
        ended.wait(0.01)
    raise AssertionError("it did not come about")


def described(error):
    return error.code, error.message


REPLY = reply()
HEAD, _, BODY = REPLY.partition(b"\r\n\r\n")
PAGE = b"<html><body>Bad Gateway</body></html>"
