"""Compares the parts of the HTTP transport with a library's.

    python bench/http_stack.py [--rounds 100] [--seconds 0.25]

A small request (an image of 50 kB, and 768 floats back) goes to a server in another process, which computes nothing. In
each of two comparisons the sides take turns, and each goes first in every other round:

- `http.client` over our sockets against httpcore's ConnectionPool over its own, in the caller's thread;
- `Workers` against a ThreadPoolExecutor, over `http.client` on both sides.

The program prints the median ratio of their throughputs, ours over the library's, with its 95 % confidence interval.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import httpcore
from client_overhead import IMAGE, in_turns, threads
from report.median import confidence
from vitriton._wire.address import Address
from vitriton._wire.connection import ConnectionSettings
from vitriton._wire.http import HttpTransport
from vitriton._wire.http_connection import KEEPALIVE_S, Request, Response
from vitriton._wire.transport import InferRequest
from vitriton._wire.workers import Task

CALLERS = (1, 16)
TIMEOUT_S = 60.0
HEAD = b'{"outputs":[{"name":"embedding","datatype":"FP32","shape":[1,768],"parameters":{"binary_data_size":3072}}]}'
REPLY = (
    f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(HEAD)}\r\n"
    f"Content-Length: {len(HEAD) + 3072}\r\n\r\n"
).encode() + HEAD + bytes(3072)  # fmt: skip


class Pool:
    """httpcore's ConnectionPool in place of `Connections`.

    Only the exchange itself is here. A total deadline, cancellation, a limit on the response, and the retry after the
    server closed a kept-alive connection would be added: the library has none of them.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._pool = httpcore.ConnectionPool(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEPALIVE_S
        )

    def exchange(self, request: Request, _: object) -> Response:
        """See `Connections.exchange`."""
        body = b"".join(request.body)
        headers = [("host", f"127.0.0.1:{self._port}"), ("content-length", str(len(body))), *request.headers]
        url = httpcore.URL(scheme=b"http", host=b"127.0.0.1", port=self._port, target=request.path.encode())
        response = self._pool.handle_request(httpcore.Request(request.method, url, headers=headers, content=body))
        try:
            data = response.read()
        finally:
            response.close()
        lengths = {name.lower(): value for name, value in response.headers}
        at = int(lengths[request.head_header.encode()])
        return Response(status=response.status, reason="", head_length=str(at), head=data[:at], rest=data[at:])

    def close(self) -> None:
        """See `Connections.close`."""
        self._pool.close()


class Executor:
    """A ThreadPoolExecutor in place of `Workers`.

    This class adds what the library lacks: a task expires on time even if all threads are busy, and the transport's
    tests pass with it. The threads are not daemons, so the interpreter's exit waits for them.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._pool = ThreadPoolExecutor(limit, name)
        self._lock = threading.Lock()
        self._time = threading.Condition(self._lock)
        self._queue: dict[Task, Future[None]] = {}
        self._running: set[Future[None]] = set()
        self._watcher: threading.Thread | None = None
        self._closed = False

    def submit(self, task: Task) -> None:
        """See `Workers.submit`."""
        with self._lock:
            self._queue[task] = self._pool.submit(self._run, task)
            crowded = len(self._queue) + len(self._running) > self._limit
            if crowded and task.deadline.timeout_s is not None:
                if self._watcher is None:
                    self._watcher = threading.Thread(target=self._watch, name=self._name, daemon=True)
                    self._watcher.start()
                self._time.notify()

    def withdraw(self, task: Task) -> None:
        """See `Workers.withdraw`."""
        with self._lock:
            future = self._queue.pop(task, None)
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """See `Workers.close`."""
        with self._lock:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._time.notify()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for task in waiting:
            task.cancel()

    def join(self, timeout_s: float) -> None:
        """See `Workers.join`."""
        with self._lock:
            running = set(self._running)
        wait(running, timeout_s)

    def _run(self, task: Task) -> None:
        with self._lock:
            future = self._queue.pop(task, None)
            if future is None:
                return
            self._running.add(future)
        try:
            task.run()
        finally:
            with self._lock:
                self._running.discard(future)

    def _watch(self) -> None:
        while True:
            with self._lock:
                late = [task for task in self._queue if task.deadline.expired]
                for task in late:
                    self._queue.pop(task).cancel()
                if not late:
                    if self._closed or not self._queue:
                        self._watcher = None
                        return
                    self._time.wait(min(task.deadline.bounded_s(10.0) for task in self._queue))
            for task in late:
                task.expire()


class Server(asyncio.Protocol):
    """Answers each request with the same bytes."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n") + 4) > 3:
            head = bytes(self._data[:end]).lower()
            end += int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            if len(self._data) < end:
                return
            del self._data[:end]
            self._transport.write(REPLY)


def serve(listener: socket.socket) -> None:
    """Runs the server in a separate process."""

    async def run() -> None:
        running = await asyncio.get_running_loop().create_server(Server, sock=listener)
        await running.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def server() -> Iterator[int]:
    """Starts a server in another process; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(listener,), daemon=True)
        process.start()
        yield listener.getsockname()[1]
        process.terminate()
        process.join()


def transport(port: int, **parts: Any) -> HttpTransport:
    """Makes an HTTP transport with `parts` in place of its own."""
    made = HttpTransport(Address("http", "127.0.0.1", port), ConnectionSettings())
    for name, part in parts.items():
        setattr(made, f"_{name}", part)
    return made


def request() -> InferRequest:
    """A batch of one small image."""
    return InferRequest(model="noop", input_name="image", images=[IMAGE], output_name="embedding", timeout_s=TIMEOUT_S)


def here(using: HttpTransport) -> Callable[[], object]:
    """A call that sends a request in the caller's thread."""
    return lambda: using.infer(request(), TIMEOUT_S)


def elsewhere(using: HttpTransport) -> Callable[[], object]:
    """A call that sends a request in one of the transport's threads."""
    return lambda: using.send(request(), TIMEOUT_S).result()


def measure(
    ours: Callable[[], object], theirs: Callable[[], object], callers: int, rounds: int, seconds: float
) -> tuple[list[float], float]:
    """The ratio of ours to theirs for each round, and the median time of our request in microseconds."""
    ratios, times_us = [], []
    for turn in range(rounds + 1):
        rates = {call: threads(call, callers, seconds) for call in in_turns(turn, ours, theirs)}
        ratios.append(rates[ours] / rates[theirs])
        times_us.append(1e6 / rates[ours])
    return ratios[1:], statistics.median(times_us[1:])


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.25)
    options = parser.parse_args()
    with server() as port, contextlib.ExitStack() as stack:
        ours, pool, executor = (
            stack.enter_context(contextlib.closing(made))
            for made in (
                transport(port),
                transport(port, connections=Pool(port)),
                transport(port, workers=Executor(ConnectionSettings().max_connections, "executor")),
            )
        )
        for callers in CALLERS:
            for name, both in (
                ("http.client / httpcore", (here(ours), here(pool))),
                ("Workers / ThreadPoolExecutor", (elsewhere(ours), elsewhere(executor))),
            ):
                ratios, time_us = measure(*both, callers, options.rounds, options.seconds)
                low, high = confidence(ratios)
                print(
                    f"{name:28} {callers:2} callers: {statistics.median(ratios):.2f} x the requests a second "
                    f"({low:.2f} to {high:.2f}); ours {time_us:.0f} us a request",
                    flush=True,
                )


if __name__ == "__main__":
    main()
