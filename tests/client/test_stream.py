"""Streams, retries and single errors: what both clients do, on a transport without a server."""

import asyncio
import contextlib
import contextvars
import inspect
import json
import logging
import queue
import re
import threading
import time
from collections import deque
from dataclasses import asdict

import numpy as np
import pytest
from client.both import KINDS, make_client
from vitriton import (
    AsyncClient,
    Client,
    ContractMismatch,
    DeadlineExceeded,
    InferenceFailed,
    InvalidImage,
    Options,
    ServerBusy,
    Unavailable,
)
from vitriton._call.asynchronous import AsyncMailbox
from vitriton._call.blocking import SourceThread
from vitriton.preprocessing import Limits
from vitriton.testing import CallError, Code, FakeTransport, busy, invalid_images, model_died, unavailable

QUICK = Options(initial_backoff_s=0.001, max_backoff_s=0.002)


@pytest.fixture(params=KINDS)
def client_on(request):
    """Makes clients of one kind on a transport; closes them."""
    with contextlib.ExitStack() as stack:

        def make(transport, options=QUICK, **arguments):
            client = make_client(request.param)("", model="m", transport=transport, options=options, **arguments)
            return stack.enter_context(client)

        yield make


def images(count):
    return [b"%d" % number for number in range(count)]


def first_number(image):
    """(8,) of the number that the image is."""
    return np.full(8, float(image))


def bad_where(is_bad):
    """A transport whose server cannot use some images."""

    class Transport(FakeTransport):
        def respond(self, request):
            errors = {position: "bad" for position, image in enumerate(request.images) if is_bad(image)}
            if errors:
                raise invalid_images(errors, len(request.images))
            return super().respond(request)

    return Transport(embed=first_number)


def test_signatures():
    """What a client can do, the other can do under the same names, with the same parameters."""

    def surface(kind):
        return {
            name: [str(parameter) for parameter in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    blocking, asynchronous = surface(Client), surface(AsyncClient)
    plain = {
        name: [re.sub(r"AsyncIterable\[\w+\] \| ", "", text) for text in parameters]
        for name, parameters in asynchronous.items()
    }
    assert plain == blocking


def test_every_image_once_and_in_order(client_on):
    """A stream gives a result for each image, in input order, with its index and source."""
    results = list(client_on(FakeTransport(embed=first_number)).stream(iter(images(1000))))
    assert [result.index for result in results] == list(range(1000))
    assert [float(result.embedding[0]) for result in results] == list(range(1000))
    assert {result.source for result in results} == {"bytes"}
    assert all(result.error is None and result.embedding.dtype == np.float32 for result in results)


def test_a_bad_image_costs_only_itself(client_on, tmp_path):
    """Images that the server or the client cannot use are results with an error; the others are embedded."""
    transport = bad_where(lambda image: int(image) % 7 == 0)
    given = [*images(30), tmp_path / "none.jpg", b"31"]
    results = list(client_on(transport).stream(given))
    assert [result.index for result in results] == list(range(32))
    bad = {result.index: result.error for result in results if result.error is not None}
    assert sorted(bad) == [0, 7, 14, 21, 28, 30]
    assert bad[7].errors == ((7, "bytes", "bad", "other"),)
    assert "no such file" in str(bad[30])
    assert bad[30].code == "not_found"
    assert all(float(r.embedding[0]) == float(given[r.index]) for r in results if r.error is None)


def test_embed_returns_errors(client_on):
    """The method embed does the same for a list, on request."""
    results = client_on(bad_where(lambda image: image == b"3")).embed(images(20), on_error="return")
    assert [result.error is not None for result in results] == [index == 3 for index in range(20)]
    assert isinstance(results[3].error, InvalidImage)
    assert results[3].error.total == 20


def test_a_request_of_bad_images_only(client_on):
    """When nothing is left of a request, it is not sent again."""
    transport = bad_where(lambda image: True)
    results = client_on(transport).embed(images(8), on_error="return")
    assert all(result.error for result in results)
    assert len(transport.requests) == 1


def test_a_stream_can_raise(client_on):
    """on_error="raise" ends a stream at the first bad image."""
    stream = client_on(bad_where(lambda image: image == b"3")).stream(images(20), on_error="raise")
    with pytest.raises(InvalidImage, match=r"image 3 \(bytes\): bad"):
        list(stream)


def test_an_endless_source_is_read_as_needed(client_on):
    """A stream reads no further ahead than its bounds, and stops when it is closed."""
    read = []

    def source():
        while True:
            read.append(None)
            yield b"1"

    options = Options(max_in_flight=2, read_ahead=4)
    transport = FakeTransport(max_batch_size=3)
    stream = client_on(transport, options).stream(source())
    for _ in range(50):
        next(stream)
    stream.close()
    assert len(read) <= 50 + 2 * 3 + 2 * 4 + 3
    assert all(pending.is_done for pending in transport.sent)


def test_results_that_wait_for_the_first_are_bounded(client_on):
    """While the first request has no answer, an ordered stream stops reading."""
    read = []

    class FirstHangs(FakeTransport):
        def send(self, request, timeout_s):
            self._answers_at_once = bool(self.requests)
            pending = super().send(request, timeout_s)
            if len(self.sent) == 1:
                threading.Timer(0.5, pending.finish).start()
            return pending

    def source():
        for image in images(10_000):
            read.append(image)
            yield image

    transport = FirstHangs(max_batch_size=2)
    client = client_on(transport, Options(max_in_flight=3, read_ahead=10))
    stream = client.stream(source())
    next(stream)
    assert len(read) <= 3 * 2 + 2 * 10 + 1
    stream.close()


def test_as_completed(client_on):
    """On request results come as they are ready, and the first one does not hold the others back."""

    class FirstLast(FakeTransport):
        def send(self, request, timeout_s):
            pending = super().send(request, timeout_s)
            if len(self.sent) > 1:
                pending.finish()
            if len(self.sent) == 4:
                self.sent[0].finish()
            return pending

    transport = FirstLast(max_batch_size=1, answers_at_once=False)
    stream = client_on(transport).stream(images(4), ordered=False)
    indices = [result.index for result in stream]
    assert sorted(indices) == [0, 1, 2, 3]
    assert indices[0] != 0


def test_the_callers_own_error_ends_a_stream(client_on):
    """What the iterable raises comes through."""

    def source():
        yield b"1"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(client_on(FakeTransport()).stream(source()))


def test_what_came_before_the_callers_own_error(client_on):
    """The results of the images before it come first, in a stream from an iterator and from a list."""

    class Broken(list):
        def __iter__(self):
            yield from super().__iter__()
            raise KeyError("mine")

    for source in (iter(Broken(images(20))), Broken(images(20))):
        indices = []
        with pytest.raises(KeyError, match="mine"):
            indices.extend(result.index for result in client_on(FakeTransport()).stream(source))
        # list.extend keeps what it got before the error
        assert indices == list(range(20))


def test_objects_of_the_caller_are_read_before_the_next_is_asked_for(client_on):
    """A generator may fill the same array again for each image."""

    def source():
        frame = np.zeros((2, 2, 3), np.uint8)
        for value in range(50):
            frame[:] = value
            yield frame

    transport = FakeTransport(embed=lambda image: np.full(8, image[-1]))
    assert client_on(transport).embed(source())[:, 0].tolist() == list(range(50))


class BrokenPath:
    """A path that fails when it is asked for the n-th time."""

    def __init__(self, times):
        self.times = times

    def __fspath__(self):
        self.times -= 1
        if self.times < 0:
            raise RuntimeError("no path today")
        return __file__


def test_an_object_that_fails_in_its_own_way(client_on):
    """It costs only itself, whoever asks it: the caller's thread or one that reads."""
    released = memoryview(b"image")
    released.release()
    strange = [BrokenPath(times) for times in range(4)]
    given = [b"1", *strange, released, b"2"]
    for results in (
        list(client_on(FakeTransport()).stream(given, timeout_s=60)),
        client_on(FakeTransport()).embed(given, on_error="return", timeout_s=60),
    ):
        assert results[0].error is results[-1].error is None
        assert "no path today" in str(results[1].error)
        assert "released memoryview" in str(results[-2].error)


@pytest.mark.parametrize("fault", [unavailable, busy, model_died])
def test_what_may_pass_is_tried_again(client_on, fault):
    """A few failures of the server are not seen by the caller."""
    transport = FakeTransport(embed=first_number, faults=[fault(), fault(), None, fault()])
    client = client_on(transport)
    assert client.embed(images(20))[:, 0].tolist() == list(range(20))
    assert client.stats().retries == 3
    assert client.stats().images == 20


@pytest.mark.parametrize(
    ("fault", "error"), [(unavailable, Unavailable), (model_died, Unavailable), (busy, ServerBusy)]
)
def test_what_does_not_pass(client_on, fault, error):
    """At the deadline the last failure is the error, with the number of attempts, the model and the address."""
    transport = FakeTransport(faults=iter(fault, None))
    start = time.monotonic()
    with pytest.raises(error, match=r"tried \d+ times in 2 s") as caught:
        client_on(transport).embed(images(1), timeout_s=2.0)
    assert time.monotonic() - start >= 2.0
    sent = len(transport.requests)
    assert (
        3 < sent <= caught.value.attempts <= sent + 1
    )  # the time may be over before the last attempt has sent anything
    assert (caught.value.model, caught.value.address) == ("m_pooled", "grpc://fake:8001")
    assert isinstance(caught.value.__cause__, CallError)


def test_attempts_can_be_bounded(client_on):
    """max_attempts ends it before the deadline."""
    transport = FakeTransport(faults=iter(unavailable, None))
    with pytest.raises(Unavailable) as caught:
        client_on(transport, Options(max_attempts=3, initial_backoff_s=0.001)).embed(images(1))
    assert caught.value.attempts == len(transport.requests) == 3


def test_mistakes_are_not_tried_again(client_on):
    """What the caller or the model did wrong is reported at once."""
    transport = FakeTransport(faults=[CallError(Code.INTERNAL, "onnxruntime: out of memory")])
    with pytest.raises(InferenceFailed, match="out of memory") as caught:
        client_on(transport).embed(images(1))
    assert caught.value.attempts == len(transport.requests) == 1


def test_answers_before_a_failure(client_on):
    """A stream yields the results that were ready before it raises the error that ends it, all in one turn."""
    transport = FakeTransport(
        embed=first_number, max_batch_size=1, faults=[None, None, None, CallError(Code.INTERNAL, "out of memory")]
    )
    results = []
    with pytest.raises(InferenceFailed, match="out of memory"):
        results.extend(client_on(transport).stream(images(9)))
    assert [result.embedding[0] for result in results] == [0, 1, 2]


def test_a_hung_server(client_on):
    """A server that takes requests and never answers is DeadlineExceeded, and the request is cancelled."""
    transport = FakeTransport(answers_at_once=False)
    with pytest.raises(DeadlineExceeded) as caught:
        client_on(transport).embed(images(1), timeout_s=1.0)
    assert caught.value.timeout_s == 1.0
    assert transport.sent[0].cancelled


def test_a_stream_has_a_deadline_for_each_request(client_on):
    """A stream may take longer than its timeout_s, which counts for each request."""

    def source():
        for image in images(6):
            yield image
            time.sleep(0.5)

    transport = FakeTransport(max_batch_size=1)
    assert len(list(client_on(transport).stream(source(), timeout_s=2.5))) == 6
    assert all(timeout_s > 1.0 for timeout_s in transport.timeouts_s)


def test_the_expected_fingerprint(client_on):
    """Nothing is embedded in another space than the expected one."""
    transport = FakeTransport(parameters={"fingerprint": "space-2"})
    client = client_on(transport, expect_fingerprint="space-1")
    for call in (lambda: client.embed(images(1)), lambda: list(client.stream(images(1))), client.describe):
        with pytest.raises(ContractMismatch, match="space-2, and space-1 was expected"):
            call()
    assert not transport.requests
    assert client_on(transport, expect_fingerprint="space-2").embed(images(1)).shape == (1, 8)


def test_a_server_that_comes_back_with_another_export(client_on):
    """The rest of a stream is not embedded in another space when a server has been replaced in between."""

    def faults():
        yield from (None, None)
        transport.parameters["fingerprint"] = "space-2"
        yield unavailable()

    transport = FakeTransport(max_batch_size=1, parameters={"fingerprint": "space-1"}, faults=faults())
    with pytest.raises(ContractMismatch, match="space-2 in place of space-1"):
        list(client_on(transport, Options(max_in_flight=1, read_ahead=1)).stream(iter(images(10))))
    assert len(transport.requests) == 3


def test_describe(client_on):
    """Both outputs, what the export wrote into the configuration, and what is not there is None."""
    limits = Limits(max_pixels=1000)
    parameters = {
        "model": "org/photo",
        "pooling": "cls",
        "l2_normalize": "true",
        "preprocess": json.dumps({"limits": asdict(limits)}),
    }
    model = client_on(FakeTransport(parameters=parameters, dim=8, tokens=4, towers=["image"])).describe()
    assert (model.name, model.addresses, model.ready) == ("m", ("grpc://fake:8001",), True)
    assert (model.fingerprint, model.source, model.revision, model.precision) == ("fake", "org/photo", None, None)
    assert (model.pooling, model.l2_normalize, model.max_batch_size) == ("cls", True, 8)
    assert [(output.kind, output.shape, output.dtype) for output in model.outputs] == [
        ("pooled", (8,), "float32"),
        ("unpooled", (4, 8), "float32"),
    ]
    assert model.pooled is model.outputs[0]
    assert model.limits == limits
    assert model.parameters == {"fingerprint": "fake", **parameters}
    assert hash(model)
    assert "parameters" not in repr(model)


def test_a_description_of_one_output(client_on):
    """A model that was exported without its pooled output is described by the other."""

    class Tokens(FakeTransport):
        def model_config(self, model, timeout_s):
            if model.endswith("_pooled"):
                raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
            return super().model_config(model, timeout_s)

    model = client_on(Tokens()).describe()
    assert (model.pooled, model.unpooled.tensor) == (None, "last_hidden_state")
    assert model.limits is None


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_model_without_its_first_output_does_not_look_down(client_on, caplog, tower):
    """A server that lacks an output of the described model has not failed."""

    class Tokens(FakeTransport):
        def model_config(self, model, timeout_s):
            if not model.endswith("_unpooled"):
                raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
            return super().model_config(model, timeout_s)

    caplog.set_level(logging.INFO, "vitriton")
    client = client_on(Tokens(towers=[tower]))
    assert client.describe().towers == (tower,)
    call = client.embed if tower == "image" else client.embed_texts
    assert len(call([b"image"] if tower == "image" else ["text"], pool=False)) == 1
    assert not caplog.records


def test_requests_are_filled(client_on, tmp_path):
    """Files that are read on threads still travel in full requests."""
    paths = []
    for number in range(32):
        path = tmp_path / str(number)
        path.write_bytes(b"%d" % number)
        paths.append(path)
    transport = FakeTransport(embed=first_number)
    assert client_on(transport, Options(max_linger_s=60.0)).embed(paths)[:, 0].tolist() == list(range(32))
    assert [len(request.images) for request in transport.requests] == [8, 8, 8, 8]


def test_held_bytes_are_bounded(client_on):
    """Images that wait for their answer may not take more memory than allowed."""
    transport = FakeTransport(answers_at_once=False, max_batch_size=1)
    read = []

    def source():
        for _ in range(1000):
            read.append(None)
            yield bytes(1000)

    with pytest.raises(DeadlineExceeded):
        client_on(transport, Options(max_held_bytes=5000)).embed(source(), timeout_s=0.2)
    assert len(read) <= 6


def test_threads_share_a_client(client_on):
    """Calls from many threads get their own answers, also while the server fails."""
    lock = threading.Lock()
    count = [0]

    def sometimes():
        with lock:
            count[0] += 1
            return unavailable() if count[0] % 5 == 0 else None

    client = client_on(FakeTransport(embed=first_number, faults=iter(sometimes, "never")))
    failures = []

    def call(first):
        numbers = list(range(first, first + 20))
        if client.embed([b"%d" % number for number in numbers])[:, 0].tolist() != numbers:
            failures.append(first)

    threads = [threading.Thread(target=call, args=(100 * number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_close_ends_what_waits(client_on):
    """Closing a client ends a call that waits for an answer, or for the next attempt."""
    for transport in (FakeTransport(answers_at_once=False), FakeTransport(faults=iter(unavailable, None))):
        client = client_on(transport, Options(initial_backoff_s=50.0, max_backoff_s=50.0))
        client.embed([])
        timer = threading.Timer(0.2, client.close)
        timer.start()
        with pytest.raises(RuntimeError, match="closed"):
            client.embed(images(1))
        timer.join()


def test_async_iterables():
    """AsyncClient waits for an async iterable while requests run, and closes what it waits for."""

    async def source():
        for image in images(100):
            await asyncio.sleep(0.0005)
            yield image

    async def main():
        async with AsyncClient("", model="m", transport=FakeTransport(embed=first_number)) as client:
            rows = await client.embed(source())
            assert rows[:, 0].tolist() == list(range(100))
            assert [result.index async for result in client.stream(source())] == list(range(100))

    asyncio.run(main())


def test_a_result_does_not_wait_for_the_next_image():
    """An async source that is slow gets each result when it is ready."""

    async def main():
        seen = asyncio.Event()

        async def source():
            yield b"1"
            await seen.wait()
            yield b"2"

        async with AsyncClient("", model="m", transport=FakeTransport()) as client:
            async for result in client.stream(source()):
                assert result.embedding is not None
                seen.set()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_cancelling_a_task_cancels_its_requests():
    """A cancelled embed leaves nothing running."""

    async def main():
        transport = FakeTransport(answers_at_once=False)
        async with AsyncClient("", model="m", transport=transport) as client:
            task = asyncio.create_task(client.embed(images(20)))
            while len(transport.sent) < 3:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert all(pending.cancelled for pending in transport.sent)

    asyncio.run(main())


def test_leaving_an_async_stream():
    """A stream that is closed early ends its requests and its wait for the source."""

    async def main():
        ended = []

        async def source():
            try:
                yield b"1"
                await asyncio.sleep(3600)
            finally:
                ended.append(True)

        async with AsyncClient("", model="m", transport=FakeTransport()) as client:
            async with contextlib.aclosing(client.stream(source())) as stream:
                async for _ in stream:
                    break
            assert ended == [True]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_source_that_waits_for_its_own_results():
    """A blocking source gets a result before it has to give the next image."""
    wanted = queue.SimpleQueue()

    def source():
        while (image := wanted.get()) is not None:
            yield image

    wanted.put(b"0")
    with Client("", model="m", transport=FakeTransport(embed=first_number)) as client:
        for result in client.stream(source()):
            assert float(result.embedding[0]) == result.index
            wanted.put(b"%d" % (result.index + 1) if result.index < 10 else None)
    assert result.index == 10


def test_the_source_sees_the_callers_context():
    """A generator has the caller's context variables, although it runs in another thread."""
    variable = contextvars.ContextVar("variable")
    variable.set("mine")

    def source():
        assert variable.get() == "mine"
        yield b"1"

    with Client("", model="m", transport=FakeTransport()) as client:
        assert len(list(client.stream(source()))) == 1


def test_a_blocked_source_does_not_hold_up_the_end():
    """A stream can be closed while its source waits; the source's thread ends when that does."""
    gate = threading.Event()

    def source():
        yield b"1"
        gate.wait()
        yield b"2"

    with Client("", model="m", transport=FakeTransport()) as client:
        stream = client.stream(source())
        next(stream)
        stream.close()
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "vitriton-source":
            thread.join(60)
            assert not thread.is_alive()


async def _wake_before_a_wait():
    mailbox = AsyncMailbox()
    mailbox.wake()
    await asyncio.wait_for(mailbox.wait(None), 60)


def test_a_wait_that_is_ended_before_it_begins():
    """A client that is closed by another thread ends a call that is just about to wait."""
    asyncio.run(_wake_before_a_wait())


def test_an_image_that_comes_with_the_end_of_its_iterable():
    """It is not lost, however the thread of the iterable and that of the call take turns."""
    source = SourceThread([], lambda: None, 1)
    source.close()

    class Late(deque):
        def __bool__(self):  # asked by `take`: the thread adds an image and ends just after that
            empty = not len(self)
            if empty and not source._ended:
                self.append(b"the last image")
                source._ended = True
            return not empty

    source._given, source._ended = Late(), False
    assert not source.take(print)
    taken = []
    assert source.take(taken.append)
    assert taken == [b"the last image"]
    with pytest.raises(StopIteration):
        source.take(print)
