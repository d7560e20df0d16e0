"""The client's own logic, on a transport without a server."""

import asyncio
import contextlib
import logging
import multiprocessing
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from client.both import KINDS, make_client
from client.fakes import FAKE_ADDRESS, FakeTransport, PublicFakeTransport, first_bytes
from client.http_tools import serve
from client.scripted import http
from vitriton import (
    Client,
    ClientClosed,
    ContractMismatch,
    DeadlineExceeded,
    InferenceFailed,
    InvalidImage,
    ModelNotFound,
    ModelNotReady,
    Options,
    ServerBusy,
    Unavailable,
)
from vitriton._call import session
from vitriton._served.model import ModelOutput
from vitriton._wire.transport import ModelStatus
from vitriton.testing import CallError, Code, InferReply


@pytest.fixture(params=KINDS)
def client_on(request):
    """Makes clients of one kind on a transport; closes them."""
    with contextlib.ExitStack() as stack:

        def make(transport, **arguments):
            return stack.enter_context(make_client(request.param)("", model="m", transport=transport, **arguments))

        yield make


def images(count):
    return [bytes([index]) * (index + 1) for index in range(count)]


def failing(code, message, when=lambda request: True):
    def answer(request):
        if when(request):
            raise CallError(code, message)
        return first_bytes(request)

    return answer


def test_order_when_replies_are_not(client_on):
    """Replies that come in the reverse order of the requests give rows in input order."""

    def finish_three_backwards(sent):
        if len(sent) in (3, 6):
            for pending in reversed(sent[-3:]):
                pending.finish()

    transport = FakeTransport(max_batch_size=2, after_send=finish_three_backwards)
    result = client_on(transport, options=Options(max_in_flight=3)).embed(images(12))
    assert result.tolist() == [[index, index + 1] for index in range(12)]


def test_requests_in_flight_are_bounded(client_on):
    """No more requests are with the server than max_in_flight allows."""
    waiting = []

    def finish_when_full(sent):
        open_ones = [pending for pending in sent if not pending.is_done]
        waiting.append(len(open_ones))
        if len(open_ones) == 2 or len(sent) == 5:
            for pending in open_ones:
                pending.finish()

    transport = FakeTransport(max_batch_size=1, after_send=finish_when_full)
    assert len(client_on(transport, options=Options(max_in_flight=2)).embed(images(5))) == 5
    assert max(waiting) == 2


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (Options(), [4, 4, 2]),
        (Options(max_request_bytes=10), [4, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_batches(client_on, options, sizes):
    """Requests are cut by the server's batch size and by bytes."""
    transport = FakeTransport()
    client_on(transport, options=options).embed(images(10))
    assert [len(request.images) for request in transport.requests] == sizes


def test_iterators_are_read_as_needed(client_on):
    """An iterator is read no further than the requests in flight need."""
    read = []

    def source():
        for image in images(100):
            read.append(image)
            yield image

    transport = FakeTransport(failing(Code.INTERNAL, "broken"))
    with pytest.raises(InferenceFailed):
        client_on(transport).embed(source())
    assert len(read) <= 4 * 2 + 1


def test_configuration_is_read_once(client_on):
    """The model's configuration is read for the first call, and again after the server has failed one."""
    broken = []
    transport = FakeTransport(failing(Code.INTERNAL, "broken", when=lambda _: bool(broken)))
    client = client_on(transport)
    client.embed(images(1))
    client.embed(images(1))
    assert transport.configs_read == 1
    client.embed(images(1), pool=False)
    assert transport.configs_read == 2
    broken.append(True)
    with pytest.raises(InferenceFailed):
        client.embed(images(1))
    broken.clear()
    client.embed(images(1))
    assert transport.configs_read == 3


def test_indices_of_a_later_batch(client_on):
    """The server counts in its request, the error in the caller's list."""
    transport = FakeTransport(
        failing(
            Code.INVALID_ARGUMENT,
            'cannot use 2 of 4 images: [[0, "empty"], [3, "cut"]]',
            when=lambda request: request.images[0][0] == 4,
        )
    )
    with pytest.raises(InvalidImage) as caught:
        client_on(transport).embed(images(10))
    assert caught.value.errors == (
        (4, "bytes", "empty", "other"),
        (7, "bytes", "cut", "other"),
    )  # as of an older server
    assert caught.value.total == 10


def test_a_failure_cancels_the_rest(client_on):
    """When one request fails, the others are cancelled, and the error does not wait for them."""
    transport = FakeTransport(
        failing(Code.INTERNAL, "broken"),
        max_batch_size=1,
        after_send=lambda sent: sent[-1].finish() if len(sent) == 3 else None,
    )
    with pytest.raises(InferenceFailed, match="broken"):
        client_on(transport).embed(images(3))
    assert [pending.cancelled for pending in transport.sent] == [True, True, False]


def test_a_bad_source_cancels_the_rest(client_on):
    """An image that cannot be read ends the call, and what was sent before it is cancelled."""
    transport = FakeTransport(max_batch_size=1, after_send=lambda sent: None)
    with pytest.raises(InvalidImage, match=r"image 2 of 3 \(/no/cat\.jpg\): no such file"):
        client_on(transport).embed([b"a", b"b", "/no/cat.jpg"])
    assert transport.sent[0].cancelled


def test_an_iterator_that_raises_cancels_the_rest(client_on):
    """The caller's own exception comes through as it is."""

    def source():
        yield from images(2)
        raise KeyError("mine")

    transport = FakeTransport(max_batch_size=1, after_send=lambda sent: None)
    with pytest.raises(KeyError, match="mine"):
        client_on(transport).embed(source())
    assert transport.sent[0].cancelled


def test_one_deadline_for_all(client_on):
    """Every request is given what is left of the call's time, for the transport and for the server's queue."""
    transport = FakeTransport(max_batch_size=1)
    client_on(transport, timeout_s=600.0).embed(images(3), timeout_s=60.0)
    assert all(0 < timeout_s <= 60.0 for timeout_s in transport.timeouts_s)
    assert transport.timeouts_s == sorted(transport.timeouts_s, reverse=True)
    assert transport.timeouts_s == [request.timeout_s for request in transport.requests]


def test_a_request_may_wait_for_those_before_it(client_on):
    """Without a total time, a request has the client's time for itself and for each one that is before it."""

    def after_send(sent):
        if len(sent) == 3:
            for pending in sent:
                pending.finish()

    transport = FakeTransport(max_batch_size=1, after_send=after_send)
    client_on(transport, timeout_s=100.0, options=Options(max_in_flight=3)).embed(images(3))
    np.testing.assert_allclose(transport.timeouts_s, [100.0, 200.0, 300.0], atol=40.0)


def test_a_call_without_answers_ends(client_on):
    """When nothing is answered any more, the call ends, and says how long that was."""
    transport = FakeTransport(max_batch_size=1, after_send=lambda sent: sent[-1].finish() if len(sent) == 1 else None)
    with pytest.raises(DeadlineExceeded, match=r"no answer came from model m at .* for 1 s"):
        client_on(transport, timeout_s=1.0).embed(images(3))
    assert all(pending.cancelled for pending in transport.sent[1:])


def test_an_overtaken_request_is_missed(client_on):
    """A request that is never answered ends a stream in its time, also when all those after it are answered."""

    def after_send(sent):
        if len(sent) > 1:
            threading.Timer(0.01, sent[-1].finish).start()

    transport = FakeTransport(max_batch_size=1, after_send=after_send)
    with pytest.raises(DeadlineExceeded):
        for _ in client_on(transport, timeout_s=2.0).stream(iter(lambda: b"a", None), ordered=False):
            pass
    assert len(transport.sent) > 5


def test_a_request_that_is_turned_away_goes_to_the_end_of_the_line(client_on):
    """A busy server ends no call as long as it answers: what it turned away waits behind the others."""
    answered = []

    def answer(request):
        if request.images == [b"busy"] and len(answered) < 95:
            raise CallError(Code.UNAVAILABLE, "Exceeds maximum queue size")
        answered.append(request)
        return first_bytes(request)

    # Two at a time, each for 0.05 s: the client's time is over before 95 are answered.
    transport = FakeTransport(
        answer, max_batch_size=1, after_send=lambda sent: threading.Timer(0.05, sent[-1].finish).start()
    )
    options = Options(initial_backoff_s=0.01, max_backoff_s=0.01, max_in_flight=2)
    client = client_on(transport, timeout_s=2.0, options=options)
    assert len(client.embed([b"busy", *[b"a"] * 100])) == 101


def test_no_deadline(client_on):
    """None is no limit, and is not replaced by the client's own."""
    transport = FakeTransport()
    client_on(transport, timeout_s=5.0).embed(images(1), timeout_s=None)
    assert transport.timeouts_s == [None]


def test_deadline_while_reading(client_on):
    """When the time is over while images are read, no further request is sent."""
    transport = FakeTransport(max_batch_size=1)
    reading = threading.Event()

    def source():
        yield b"a"
        reading.wait(1.0)
        yield b"b"

    with pytest.raises(DeadlineExceeded, match=r"0\.5 s .* is over before the iterable of images gave the next one"):
        client_on(transport).embed(source(), timeout_s=0.5)
    assert len(transport.requests) <= 1


def test_the_deadline_is_told_with_its_cause(client_on):
    """When a request gets no answer in time while another waits to be sent again, the error is what that one met."""

    def answer(request):
        if request.images == [b"busy"]:
            raise CallError(Code.UNAVAILABLE, "Exceeds maximum queue size")
        raise CallError(Code.DEADLINE_EXCEEDED, "no complete answer in 60 s")

    def after_send(sent):
        if len(sent) == 2:
            for pending in sent:
                pending.finish()

    transport = FakeTransport(answer, max_batch_size=1, after_send=after_send)
    options = Options(initial_backoff_s=30.0, max_backoff_s=30.0)
    with pytest.raises(ServerBusy, match="Exceeds maximum queue size"):
        client_on(transport, options=options).embed([b"busy", b"slow"], timeout_s=60.0)


def test_the_deadline_ends_in_a_queue(client_on):
    """A request that was turned away, and then waits in a queue until its time is over: the server is busy."""

    def answer(request):
        if len(transport.requests) == 1:
            raise CallError(Code.UNAVAILABLE, "Exceeds maximum queue size")
        time.sleep(2.0)  # as in the server's queue: until the call's deadline is over
        raise CallError(Code.UNAVAILABLE, "Request timeout expired")

    transport = FakeTransport(answer)
    options = Options(initial_backoff_s=1e-6, max_backoff_s=1e-6)
    with pytest.raises(ServerBusy, match=r"Exceeds maximum queue size.*tried 2 times"):
        client_on(transport, options=options).embed(images(1), timeout_s=2.0)


def test_a_wrong_reply_is_a_mismatch(client_on):
    """A reply with fewer rows than images is never returned."""

    def answer(request):
        return InferReply(name=request.output_name, datatype="FP32", shape=(1, 2), data=bytes(8))

    with pytest.raises(ContractMismatch, match=r"returned embedding FP32 \[1, 2\]"):
        client_on(FakeTransport(answer)).embed(images(3))


def test_one_image(client_on):
    """A single image gives one row."""
    assert client_on(FakeTransport()).embed(b"abc").tolist() == [[97, 3]]
    assert client_on(FakeTransport()).embed(np.zeros((2, 2, 3), np.uint8)).shape == (1, 2)


def test_closed(client_on):
    """A closed client says so; closing again does nothing."""
    transport = FakeTransport()
    with client_on(transport) as client:
        pass
    client.close()
    assert transport.closed == 1
    assert repr(client).endswith(f"Client({FAKE_ADDRESS!r}, model='m', closed)")
    for use in (lambda: client.embed([]), client.wait_ready, client.describe, client.__enter__):
        with pytest.raises(ClientClosed, match="closed; make a new one") as caught:
            use()
        assert isinstance(caught.value, RuntimeError)
        assert (caught.value.address, caught.value.model) == (FAKE_ADDRESS, "m")


def test_wait_ready_waits(client_on):
    """wait_ready returns when the model is loaded, and not while a part of it is still loading."""

    class Loading(FakeTransport):
        looks = 0

        def is_model_ready(self, model, timeout_s):
            self.looks += 1
            if self.looks <= 2:
                raise CallError(Code.UNAVAILABLE, "connection refused")
            return model == "m_pooled" or self.looks > 6

        def repository_index(self, timeout_s):
            return [ModelStatus(name=f"m_{kind}", ready=False, state="LOADING") for kind in ("pooled", "unpooled")]

    transport = Loading()
    client_on(transport).wait_ready(timeout_s=60)
    assert transport.looks > 6


def test_wait_ready_does_not_believe_a_server_that_says_yes_to_everything():
    """Triton's metrics port answers any path with 200, and so do some web servers: they have no configuration."""
    told = pytest.raises(Unavailable, match=r"no Triton answers at .*; check that it runs, .* HTTP port")
    with serve(http("200 OK")) as server, Client(f"http://127.0.0.1:{server.port}", model="m") as client, told:
        client.wait_ready(timeout_s=2)


def test_wait_ready_checks_what_embed_checks(client_on):
    """A model with another fingerprint is no ready one."""
    index = [ModelStatus(name="m_pooled", ready=True, state="READY")]
    transport = FakeTransport(index=index, fingerprint="another")
    client_on(transport).wait_ready(timeout_s=60)
    told = pytest.raises(ContractMismatch, match="another, and mine was expected")
    with Client("", model="m", transport=transport, expect_fingerprint="mine") as client, told:
        client.wait_ready(timeout_s=60)


def test_wait_ready_is_patient_with_a_slow_server(client_on, caplog):
    """Its first looks are short; a server that needs longer is not down."""

    class Slow(FakeTransport):
        looks = 0

        def is_model_ready(self, model, timeout_s):
            self.looks += 1
            if self.looks == 1:
                raise CallError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
            return super().is_model_ready(model, timeout_s)

    client_on(Slow(index=[ModelStatus(name="m_pooled", ready=True, state="READY")])).wait_ready(timeout_s=60)
    assert caplog.messages == []


def test_a_server_that_stops_is_down_once(caplog):
    """A Triton that stops refuses requests and still tells its configuration, which is no sign of life."""
    caplog.set_level(logging.INFO, "vitriton")
    transport = PublicFakeTransport(faults=[CallError(Code.UNAVAILABLE, "Server exiting")] * 3)
    with Client("", model="m", transport=transport, options=Options(max_attempts=1)) as client:
        for _ in range(3):
            with pytest.raises(Unavailable):
                client.embed(b"abc")
        client.embed(b"abc")
    told = [record.message for record in caplog.records if record.levelno >= logging.INFO]
    assert [message.split(FAKE_ADDRESS)[1][:8] for message in told] == [" is down", " answers"]


def test_the_fake_server_refuses_no_bytes(client_on):
    """As the server does; it takes any other bytes."""
    results = client_on(PublicFakeTransport()).embed([b"", b"no image"], on_error="return")
    assert [result.error and (result.error.reason, result.error.code) for result in results] == [
        ("empty (0 bytes)", "empty"),
        None,
    ]


def test_wait_ready_gives_up(client_on):
    """A server that never answers is Unavailable when the time is over, with the address and the reason."""

    class Down(FakeTransport):
        def is_model_ready(self, model, timeout_s):
            raise CallError(Code.UNAVAILABLE, "connection refused")

    with pytest.raises(Unavailable, match=f"no Triton answers at {FAKE_ADDRESS}.*connection refused"):
        client_on(Down()).wait_ready(timeout_s=1)


@pytest.mark.parametrize("what", ["embed", "describe", "wait_ready"])
def test_a_server_that_stops_while_it_is_asked_is_waited_for(client_on, what):
    """A Triton that stops unloads its models, and then does not list them; it may come back."""

    class Stopping(FakeTransport):
        looks = 0

        def is_model_ready(self, model, timeout_s):
            return self.looks > 0

        def model_config(self, model, timeout_s):
            if self.looks == 0:
                raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
            return super().model_config(model, timeout_s)

        def repository_index(self, timeout_s):
            self.looks += 1
            if self.looks == 1:
                raise CallError(Code.UNAVAILABLE, "Server not ready")
            return []

    transport = Stopping()
    client = client_on(transport)
    {"embed": lambda: client.embed(b"abc"), "describe": client.describe, "wait_ready": client.wait_ready}[what]()
    assert transport.looks >= 1


@pytest.mark.parametrize(("given", "limit_s"), [({}, 60.0), ({"timeout_s": 90.0}, 90.0), ({"timeout_s": None}, None)])
def test_a_description_has_a_time_limit(client_on, given, limit_s):
    """The client's own, or that of the call, from its beginning to its end."""
    limits_s = []

    class Watched(FakeTransport):
        def model_config(self, model, timeout_s):
            limits_s.append(timeout_s)
            return super().model_config(model, timeout_s)

    client = client_on(Watched())
    client.describe(**given)
    assert [None if each_s is None else round(each_s, -1) for each_s in set(limits_s)] == [limit_s] * len(set(limits_s))
    with pytest.raises(ValueError, match="timeout_s is 0"):
        client.describe(timeout_s=0)


def test_a_model_that_is_unloaded_while_it_is_described():
    """A description of nothing is none: the server is asked again, and says what is missing."""

    class Unloading(FakeTransport):
        looks = 0

        def model_config(self, model, timeout_s):
            self.looks += 1
            if self.looks == 2:
                raise CallError(Code.UNAVAILABLE, "Server exiting")
            return super().model_config(model, timeout_s)

    with Client("", model="m", transport=Unloading()) as client:
        assert client.describe().name == "m"


def test_wait_ready_names_what_does_not_load(client_on):
    """A model that failed to load is named with the server's reason."""
    index = [ModelStatus(name="m_pooled", ready=False, state="UNAVAILABLE", reason="no memory")]
    with pytest.raises(ModelNotReady, match=r"model m is .* its pooled output is not ready: UNAVAILABLE \(no memory\)"):
        client_on(FakeTransport(index=index)).wait_ready(timeout_s=1)


def test_wait_ready_tells_a_model_that_is_not_there_from_one_that_is_not_ready(client_on):
    """At once where the server has no such model; a server that does not list its models is waited for."""

    class Secretive(FakeTransport):
        def repository_index(self, timeout_s):
            raise CallError(Code.UNAVAILABLE, "This protocol is restricted, expecting header 'x'")

    others = [ModelStatus(name="other_pooled", ready=True, state="READY")]
    with pytest.raises(ModelNotFound, match="does not have model m; it has: other") as caught:
        client_on(FakeTransport(index=others)).wait_ready(timeout_s=60)
    assert (caught.value.available, caught.value.model) == (("other",), "m_pooled")
    loading = [ModelStatus(name="m_unpooled", ready=False, state="LOADING")]
    with pytest.raises(ModelNotReady, match=r"model m is .* its unpooled output is not ready: LOADING"):
        client_on(FakeTransport(index=loading)).wait_ready(timeout_s=1)
    with pytest.raises(ModelNotReady, match="does not list its models"):
        client_on(Secretive(index=others)).wait_ready(timeout_s=1)


def test_a_model_that_is_not_there_is_not_asked_for_again(client_on):
    """The error comes at the first attempt, and names what the server has."""

    class Lacks(FakeTransport):
        def model_config(self, model, timeout_s):
            raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")

    index = [ModelStatus(name="other_pooled", ready=True, state="READY")]
    with pytest.raises(ModelNotFound, match="does not have model m; it has: other") as caught:
        client_on(Lacks(index=index)).embed(b"abc")
    assert (caught.value.available, caught.value.status, caught.value.attempts) == (("other",), "NOT_FOUND", 1)


@pytest.mark.parametrize("model", ["", None, 3])
def test_model_is_needed(model):
    """A client without a model is refused."""
    with pytest.raises(ValueError, match="model is"):
        Client("localhost", model=model)


def _use_in_fork(client, answers):
    asynchronous = getattr(client, "client", None)
    try:
        asyncio.run(asynchronous.embed([b"a"])) if asynchronous else client.embed([b"a"])
    except ClientClosed as exc:
        answers.send(str(exc))
    asyncio.run(asynchronous.close()) if asynchronous else client.close()


@pytest.mark.usefixtures("subprocesses")
def test_after_a_fork(client_on):
    """In a forked process a client says why it does not work, and closing it there leaves the parent's alone."""
    transport = FakeTransport()
    client = client_on(transport)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_use_in_fork, args=(client, send))
    process.start()
    assert receive.poll(60)
    assert "connections do not survive a fork. Make the " in receive.recv()
    process.join(60)
    assert process.exitcode == 0
    assert client.embed([b"a"]).shape == (1, 2)
    send.close()
    receive.close()


def test_the_fingerprint_is_read_each_time():
    """Another export may be served under the same name by now, and its vectors must not get the old name."""
    transport = FakeTransport(fingerprint="v1-a")
    with Client("", model="m", transport=transport) as client:
        client.embed([b"image"])
        assert client.describe().fingerprint == "v1-a"
        transport.fingerprint = "v1-b"
        assert client.describe().fingerprint == "v1-b"


@pytest.mark.parametrize("pool", ["mean", None, 1])
def test_pool_is_yes_or_no(pool):
    """Whoever names a pooling here is told where it is chosen, and does not get another one."""
    with Client("", model="m", transport=FakeTransport()) as client, pytest.raises(TypeError, match="chosen when"):
        client.embed([b"image"], pool=pool)


def test_a_model_prints_readably():
    """What matters of it, one on each line; an output that is not ready has its state."""
    parameters = {"model": "org/photo", "revision": "abc1234", "pooling": "cls", "l2_normalize": "true"}
    with Client("", model="m", transport=PublicFakeTransport(dim=3, parameters=parameters)) as client:
        model = client.describe()
    assert str(model).splitlines() == [
        "model        m",
        "server       grpc://fake:8001",
        "checkpoint   org/photo, commit abc1234",
        "images       pooled 3 float32; unpooled 4 × 3 float32",
        "texts        pooled 3 float32; unpooled tokens × 3 float32",
        "pooling      cls, scaled to length 1",
        "fingerprint  fake",
    ]
    loading = ModelOutput(kind="unpooled", model="m_unpooled", state="LOADING", reason="wait")
    assert "images       unpooled LOADING (wait)" in str(replace(model, outputs=(loading,)))


def test_close_does_not_wait_for_a_call_that_never_ends(monkeypatch):
    """A signal that strikes within gRPC can leave such a call behind."""
    monkeypatch.setattr(session, "_CLOSE_S", 0.1)
    end = threading.Event()
    with Client("fake", model="m", transport=FakeTransport()) as client:
        client._core.run_control(end.wait)
    assert not end.is_set()
    end.set()
