"""Connections, threads, cancelling and closing of the HTTP transport."""

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from client.http_tools import (
    LONG_S,
    PAGE,
    REPLY,
    connect,
    described,
    fail,
    infer,
    request,
    serve,
    wait_until,
)
from client.scripted import ScriptedServer, http
from vitriton.testing import CallError, Code


def test_connections_are_kept():
    """Requests one after the other use one connection."""
    with serve(REPLY) as server:
        transport = connect(server.port)
        for _ in range(5):
            infer(transport)
        transport.close()
        assert server.connections == 1


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_connection_that_the_server_closed(ending):
    """A kept connection that the server has ended, even just as it is used, is no error: a new one is made."""

    def script(peer):
        peer.request()
        peer.send(REPLY)
        if peer.number % 2 == 0:
            peer.request()  # the second one, unanswered
            if ending == "reset":
                peer.reset()

    with ScriptedServer(script) as server:
        transport = connect(server.port)
        for _ in range(6):
            assert infer(transport).shape == (1, 2)
        transport.close()
        assert server.connections > 3


def test_a_new_connection_that_is_closed_is_an_error():
    """Only what fails on a kept connection is tried again; a server that always hangs up is asked once."""

    def script(peer):
        peer.request()

    with ScriptedServer(script) as server:
        transport = connect(server.port)
        assert fail(transport).code is Code.UNAVAILABLE
        assert server.connections == 1
        transport.close()


def test_an_answer_before_the_request_is_read():
    """A server that refuses a large request without reading it is heard."""

    def script(peer):
        peer.socket.recv(100)
        peer.send(http("413 Payload Too Large", PAGE, "Connection: close"))
        peer.socket.shutdown(1)
        peer.wait()

    with ScriptedServer(script) as server:
        transport = connect(server.port)
        assert fail(transport, bytes(8 * 2**20)).code is Code.RESOURCE_EXHAUSTED
        transport.close()


def test_requests_wait_for_a_thread():
    """No more than max_connections requests are with the server; the others wait, and all are answered."""
    running, most, lock = 0, 0, threading.Lock()
    gate = threading.Semaphore(0)

    def script(peer):
        nonlocal running, most
        while peer.request():
            with lock:
                running += 1
                most = max(most, running)
            gate.acquire()
            with lock:
                running -= 1
            peer.send(REPLY)

    with ScriptedServer(script) as server:
        transport = connect(server.port, max_connections=3)
        sent = [transport.send(request(), LONG_S) for _ in range(10)]
        wait_until(lambda: running == 3)
        gate.release(10)
        assert [pending.result().shape for pending in sent] == [(1, 2)] * 10
        transport.close()
    assert most == 3


def test_waiting_for_a_thread_counts():
    """A request whose time is over before a thread is free ends then, its callback too."""
    with ScriptedServer(lambda peer: peer.wait()) as server:
        transport = connect(server.port, max_connections=1)
        busy = transport.send(request(), None)
        queued = transport.send(request(), 0.2)
        called = threading.Event()
        queued.add_done_callback(called.set)
        assert called.wait(LONG_S)
        with pytest.raises(CallError, match=r"DEADLINE_EXCEEDED: no complete answer in 0\.2 s"):
            queued.result()
        busy.cancel()
        transport.close()


def test_cancel():
    """A cancelled request ends at once, whether it is with the server or waits; its callback comes once."""
    with ScriptedServer(lambda peer: peer.wait()) as server:
        transport = connect(server.port, max_connections=1)
        calls = []
        pendings = [transport.send(request(), LONG_S) for _ in range(2)]
        wait_until(lambda: server.connections == 1)
        for pending in reversed(pendings):
            pending.add_done_callback(lambda: calls.append(1))
            pending.cancel()
            pending.cancel()
            for _ in range(2):
                with pytest.raises(CallError) as caught:
                    pending.result()
                assert described(caught.value) == (Code.CANCELLED, "canceled by this client")
        assert calls == [1, 1]
        transport.close()


def test_cancel_after_the_end():
    """Cancelling what is done changes nothing; a callback that comes late is called at once."""
    with serve(REPLY) as server:
        transport = connect(server.port)
        pending = transport.send(request(), LONG_S)
        assert pending.result().shape == (1, 2)
        pending.cancel()
        assert pending.result().shape == (1, 2)
        calls = []
        pending.add_done_callback(lambda: calls.append(1))
        assert calls == [1]
        transport.close()


def test_close_ends_everything():
    """close() from another thread ends running and waiting requests and calls with CANCELLED, and all threads."""
    before = set(threading.enumerate())
    with ScriptedServer(lambda peer: peer.wait()) as server, ThreadPoolExecutor(2) as pool:
        transport = connect(server.port, max_connections=2)
        sent = [transport.send(request(), None) for _ in range(4)]
        calls = [pool.submit(transport.model_config, "m", None), pool.submit(transport.infer, request(), None)]
        wait_until(lambda: server.connections == 4)
        transport.close()
        transport.close()
        for wait in [*(call.result for call in calls), *(pending.result for pending in sent)]:
            with pytest.raises(CallError) as caught:
                wait()
            assert caught.value.code is Code.CANCELLED
        for use in (lambda: transport.send(request(), None), lambda: transport.server_metadata(None)):
            with pytest.raises(CallError) as caught:
                use()
            assert caught.value.code is Code.CANCELLED
    wait_until(lambda: not threads_since(before))


@pytest.mark.usefixtures("subprocesses")
def test_a_program_that_does_not_close():
    """A program that ends with a request in flight and its transport open does not wait for the answer."""
    program = """
import sys
from vitriton._wire.address import Address
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.http import HttpTransport
from vitriton._wire.transport import InferRequest

transport = HttpTransport(Address("http", "127.0.0.1", int(sys.argv[1])), ConnectionSettings())
request = InferRequest(model="m", input_name="image", images=[b"image"], output_name="embedding", timeout_s=None)
transport.send(request, None)
input()  # until the request is with the server
"""
    asked = threading.Event()

    def script(peer):
        peer.request()
        asked.set()
        peer.wait()

    with ScriptedServer(script) as server:
        command = [sys.executable, "-c", program, str(server.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                assert asked.wait(LONG_S)
                process.communicate(b"end", timeout=LONG_S)
            finally:
                process.kill()
        assert process.returncode == 0


def threads_since(before):
    return [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("vitriton")]


def test_nothing_is_left_open():
    """A thousand failures of all kinds leave no thread, no file descriptor and no request behind."""

    def script(peer):
        while data := peer.request():
            kind = data[-1] % 5
            if kind == 0:
                peer.send(REPLY)
            elif kind == 1:
                peer.send(REPLY[:40])
                return
            elif kind == 2:
                peer.send(b"garbage\r\n\r\n")
                return
            elif kind == 3:
                peer.reset()
                return
            else:
                peer.send(http("503 Busy", PAGE))

    def use(count):
        transport = connect(server.port, max_connections=4)
        sent = [transport.send(request(bytes([index % 5])), LONG_S) for index in range(count)]
        codes = set()
        for pending in sent:
            try:
                pending.result()
            except CallError as exc:
                codes.add(exc.code)
        transport.close()
        assert codes == {Code.UNAVAILABLE}

    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    threads = set(threading.enumerate())
    with ScriptedServer(script) as server:
        use(10)
        wait_until(lambda: not threads_since(threads))
        before = descriptors()
        for _ in range(10):
            use(100)
        wait_until(lambda: not threads_since(threads))
        wait_until(lambda: descriptors() <= before)


@pytest.mark.parametrize("answer", [b"", http("400 Bad Request", b'{"error": "no image"}'), REPLY])
def test_what_is_done_keeps_no_images(answer):
    """Neither a reply nor an error that somebody keeps keeps the request's images."""
    with serve(answer) if answer else ScriptedServer(lambda peer: None) as server:
        transport = connect(server.port)
        sent = request(b"an image")
        watched = weakref.ref(sent)
        pending = transport.send(sent, LONG_S)
        kept = None
        try:
            kept = pending.result()
        except CallError as exc:
            kept = exc
        assert kept
        del sent
        wait_until(lambda: gc.collect() >= 0 and watched() is None)
        transport.close()
