"""Stopping a real Triton: at once when nothing is in flight, and only after the answer when something is."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from server.launcher import READY, Launcher
from server.processes import wait_until
from server.tiny_models import write_config
from vitriton_server import TritonServer
from vitriton_server._drain import drain
from vitriton_server._drain.connections import TcpConnection, connections
from vitriton_server._drain.drain import may_be_shut

TIMEOUT_S = 30.0
SOON_S = 20.0
PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
PATIENCE_S = 60.0

SLOW = """
import time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"]).parent

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        milliseconds, length = request.inputs()[0].as_numpy().ravel()[:2]
        with (self.folder / "executed").open("a") as file:
            file.write(".")
        while milliseconds < 0 and not (self.folder / "gate").exists():
            time.sleep(0.02)
        time.sleep(max(milliseconds, 0) / 1000)
        return pb_utils.InferenceResponse([pb_utils.Tensor("answer", np.zeros((1, length), np.float32))])
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A step that takes as long, and answers as much, as it is told, and an ensemble; `executed` counts requests.

    A negative time is the time until there is a file `gate` in the repository.
    """
    tensors = [("question", "TYPE_INT32", [-1])], [("answer", "TYPE_FP32", [-1])]
    folder = write_config(tmp_path / "models", "slow", "python", *tensors, batch=1)
    (folder / "model.py").write_text(SLOW)
    step = 'step { model_name: "slow" model_version: -1 input_map { key: "question" value: "question" } '
    step += 'output_map { key: "answer" value: "answer" } }'
    write_config(tmp_path / "models", "whole", "", *tensors, batch=1, more=f"ensemble_scheduling {{ {step} }}")
    return tmp_path / "models"


class Served:
    """A running server, and what its log says about its end."""

    def __init__(self, repository: Path, exit_timeout_s: float = TIMEOUT_S) -> None:
        self.lines: list[str] = []
        self.server = TritonServer(repository, exit_timeout_s=exit_timeout_s, on_log_line=self.lines.append)
        self.server.start()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.server.http_address, timeout=PATIENCE_S)

    def begin_stop(self) -> Future[tuple[bool, float]]:
        """Stops it in a thread; the result is whether that was clean, and how many seconds it took."""

        def stop() -> tuple[bool, float]:
            begun_s = time.monotonic()
            return self.server.stop(), time.monotonic() - begun_s

        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(stop)
        finally:
            pool.shutdown(wait=False)

    def wait_until_read(self) -> None:
        """Returns after Triton has read all that has been sent to it: what it has not accepted is none of its own."""
        port = int(self.server.http_address.rpartition(":")[2])
        wait_until(lambda: all(each.received and not each.unread for each in connections(port)), PATIENCE_S, "read")

    def wait_for_seconds(self, seconds: int) -> None:
        """Returns after Triton has counted so many seconds of waiting for HTTP connections."""
        wait_until(lambda: sum("HTTP service connections" in line for line in self.lines) > seconds, 60, "a stop")


@pytest.fixture
def served(subprocesses, repository: Path) -> Iterator[Served]:
    running = Served(repository)
    yield running
    running.server.stop()


def body(milliseconds: int, length: int = 1) -> bytes:
    question = {"name": "question", "shape": [1, 2], "datatype": "INT32", "data": [milliseconds, length]}
    answer = {"name": "answer", "parameters": {"binary_data": True}}
    return json.dumps({"inputs": [question], "outputs": [answer]}).encode()


def ask(connection: http.client.HTTPConnection, milliseconds: int, length: int = 1) -> http.client.HTTPResponse:
    connection.request("POST", "/v2/models/slow/infer", body(milliseconds, length))
    return connection.getresponse()


def ask_grpc(client: triton.InferenceServerClient, milliseconds: int) -> int:
    question = triton.InferInput("question", [1, 2], "INT32")
    question.set_data_from_numpy(np.array([[milliseconds, 1]], dtype=np.int32))
    return int(client.infer("slow", [question], client_timeout=PATIENCE_S).as_numpy("answer").size)


def get(connection: http.client.HTTPConnection, path: str = "/v2/health/ready") -> None:
    connection.request("GET", path)
    connection.getresponse().read()


# --- nothing is in flight -------------------------------------------------------------------------------------------


def keep_alive(served: Served) -> list[http.client.HTTPConnection]:
    connections = [served.connect() for _ in range(20)]
    for connection in connections:
        get(connection)
    return connections


def keep_alive_after_an_inference(served: Served) -> list[http.client.HTTPConnection]:
    connection = served.connect()
    ask(connection, 20).read()
    return [connection]


def scrape(served: Served) -> list[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(served.server.metrics_address)
    get(connection, "/metrics")
    return [connection]


def half_open(served: Served, count: int = 20) -> list[socket.socket]:
    host, _, port = served.server.http_address.rpartition(":")
    return [socket.create_connection((host, int(port))) for _ in range(count)]


def grpc_channel(served: Served) -> list[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(served.server.grpc_address)
    assert ask_grpc(client, 0) == 1
    return [client]


def grpc_stream(served: Served) -> list[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(served.server.grpc_address)
    answered = threading.Event()
    client.start_stream(lambda result, error: answered.set())
    question = triton.InferInput("question", [1, 2], "INT32")
    question.set_data_from_numpy(np.array([[0, 1]], dtype=np.int32))
    client.async_stream_infer("whole", [question])
    assert answered.wait(PATIENCE_S)
    return [client]


IDLE = [keep_alive, keep_alive_after_an_inference, scrape, half_open, grpc_channel, grpc_stream]


@pytest.mark.parametrize(
    "idle",
    [[], *([each] for each in IDLE), IDLE],
    ids=lambda kinds: "+".join(kind.__name__ for kind in kinds) or "nothing",
)
def test_what_is_idle_does_not_hold_it_up(served: Served, idle: list[Callable[[Served], list[object]]]) -> None:
    """With such connections open and nothing in flight it ends cleanly, in seconds and not after its timeout."""
    kept = [connection for kind in idle for connection in kind(served)]
    clean, seconds = served.begin_stop().result()
    assert clean
    assert seconds < SOON_S
    assert not any("Exit timeout expired" in line for line in served.lines)
    for connection in kept:
        connection.close()  # type: ignore[attr-defined]


def test_a_request_that_is_never_finished(served: Served) -> None:
    """Half of a header, and then nothing: it is waited for as an upload that has stopped, for seconds."""
    with half_open(served, 1)[0] as connection:
        begun_s = time.monotonic()
        connection.send(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost:")
        served.wait_until_read()
        clean, seconds = served.begin_stop().result()
    assert clean
    assert time.monotonic() - begun_s > drain.STALLED_S
    assert seconds < drain.STALLED_S + SOON_S


# --- something is in flight -----------------------------------------------------------------------------------------


def test_long_requests_are_answered(served: Served) -> None:
    """Over gRPC, over HTTP, and over an HTTP connection that has been used before, beside idle ones of each kind."""
    kept = [connection for kind in (keep_alive, half_open, grpc_stream) for connection in kind(served)]
    used = served.connect()
    get(used)
    with ThreadPoolExecutor(3) as threads, triton.InferenceServerClient(served.server.grpc_address) as client:
        asked = [threads.submit(answered, connection, -1) for connection in (used, served.connect())]
        over_grpc = threads.submit(ask_grpc, client, -1)
        wait_until(lambda: in_flight(served.server.metrics_address) == 3, PATIENCE_S, "three requests")
        stop = served.begin_stop()
        served.wait_for_seconds(1)
        (served.server._config.repository / "gate").touch()
        assert [future.result() for future in asked] == [200, 200]
        assert over_grpc.result() == 1
    assert stop.result()[0]
    for connection in kept:
        connection.close()


def answered(connection: http.client.HTTPConnection, milliseconds: int) -> int:
    with contextlib.closing(connection):
        response = ask(connection, milliseconds)
        response.read()
        return response.status


def in_flight(metrics: str) -> int:
    """Requests of the model that wait, and one that is computed."""
    with urllib.request.urlopen(f"http://{metrics}/metrics") as page:
        (waiting,) = re.findall(r'nv_inference_pending_request_count\{model="slow".*\} (\d+)', page.read().decode())
    return int(waiting) + 1


def executions(served: Served) -> int:
    file = served.server._config.repository / "executed"
    return len(file.read_text()) if file.exists() else 0


def test_a_large_answer_is_read_to_its_end(served: Served) -> None:
    """A client that takes seconds to read 40 MB gets all of it."""
    connection = served.connect()
    connection.request("POST", "/v2/models/slow/infer", body(500, 10_000_000))
    wait_until(lambda: executions(served) == 1, PATIENCE_S, "the request")
    stop = served.begin_stop()
    answer = connection.getresponse()
    size = 0
    while part := answer.read(1_000_000):
        size += len(part)
        time.sleep(0.05)  # the slow client
    assert size > 40_000_000
    assert stop.result()[0]
    connection.close()


@pytest.mark.parametrize("used_before", [False, True])
def test_an_upload_is_received_to_its_end(served: Served, used_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Header and half of the body before the stop, and the other half seconds later: it is answered."""
    monkeypatch.setattr(drain, "STALLED_S", TIMEOUT_S / 2)  # an idle one may have to wait for it, too
    connection = served.connect()
    if used_before:
        ask(connection, 20).read()
    data = body(0) + b" " * 100_000
    connection.putrequest("POST", "/v2/models/slow/infer")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data[: len(data) // 2])
    served.wait_until_read()
    kept = keep_alive(served)
    stop = served.begin_stop()
    served.wait_for_seconds(3)
    connection.send(data[len(data) // 2 :])
    assert connection.getresponse().status == 200
    clean, _ = stop.result()
    assert clean
    for each in (connection, *kept):
        each.close()


def test_no_request_is_lost_under_load(served: Served) -> None:
    """Clients that ask without a pause, each over one connection: what Triton has executed has been answered."""
    answers = [0] * 8

    def go_on(number: int) -> None:
        connection = served.connect()
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                answer = ask(connection, 10)
                assert answer.status == 200
                answer.read()
                answers[number] += 1

    with ThreadPoolExecutor(len(answers)) as threads:
        clients = [threads.submit(go_on, number) for number in range(len(answers))]
        wait_until(lambda: min(answers) > 10, PATIENCE_S, "some answers for each")
        clean, seconds = served.begin_stop().result()
        for client in clients:
            client.result()
    assert clean
    assert seconds < SOON_S
    assert executions(served) == sum(answers)


# --- it is told how it went -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("subprocesses")
def test_what_is_cut_off_is_told(repository: Path) -> None:
    """A request that takes longer than the exit timeout is cut off, and stop() says so."""
    served = Served(repository, exit_timeout_s=1)
    connection = served.connect()
    connection.request("POST", "/v2/models/slow/infer", body(60_000))
    wait_until(lambda: executions(served) == 1, PATIENCE_S, "the request")
    assert not served.server.stop()
    connection.close()


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize(("timeout", "again"), [("1", False), ("60", True)], ids=["timeout", "second signal"])
def test_the_exit_code_tells(repository: Path, own_environment: dict[str, str], timeout: str, again: bool) -> None:
    """1, and the reason, after the exit timeout, and after a second signal, which ends it at once."""
    arguments = ["--repository", str(repository), *PORTS, "--exit-timeout", timeout]
    with Launcher(arguments, own_environment) as launcher:
        launcher.wait_for(READY)
        connection = http.client.HTTPConnection(launcher.address("HTTP"))
        connection.request("POST", "/v2/models/slow/infer", body(60_000))
        wait_until((repository / "executed").exists, PATIENCE_S, "the request")
        launcher.process.send_signal(signal.SIGTERM)
        launcher.wait_for("Stopping: requests in flight")
        if again:
            time.sleep(3)  # a second signal within a second is the first one's, sent twice
            launcher.process.send_signal(signal.SIGTERM)
        begun_s = time.monotonic()
        assert launcher.wait() == 1
        assert time.monotonic() - begun_s < 45
        why = "another signal came" if again else "the exit timeout is over (--exit-timeout)"
        assert f"Stopped, and requests in flight may not have been answered: {why}" in launcher.output
        connection.close()


@pytest.mark.usefixtures("subprocesses")
def test_without_the_right_to_close_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the kernel refuses, Triton waits for its clients as it does by itself, and the log says so."""

    def refuse(*_: object) -> set[int]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(drain, "stop_reading", refuse)
    served = Served(repository, exit_timeout_s=3)
    kept = keep_alive(served)
    clean, seconds = served.begin_stop().result()
    assert not clean
    assert seconds > 3
    assert "idle connections cannot be closed from here ([Errno 1] Operation not permitted)" in caplog.text
    for connection in kept:
        connection.close()


# --- the decision ---------------------------------------------------------------------------------------------------


def connection(**fields: float) -> TcpConnection:
    known = {
        "inode": 1,
        "unread": 0,
        "unsent": 0,
        "received": 300,
        "sent": 300,
        "in_step": True,
        "since_received_s": 9.0,
        "since_sent_s": 9.0,
    }
    return TcpConnection(**{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "is_read", "shut"),
    [
        ({"since_received_s": 8.0, "since_sent_s": 7.9}, True, True),
        ({"since_received_s": 0.2, "since_sent_s": 0.1}, True, False),
        ({"since_received_s": 1.1, "since_sent_s": 1.1}, True, True),
        ({"since_received_s": 0.9, "since_sent_s": 0.9}, True, False),
        ({"since_received_s": 4.9, "since_sent_s": 4.9, "in_step": False}, True, False),
        ({"since_received_s": 5.1, "since_sent_s": 5.1, "in_step": False}, True, True),
        ({"since_received_s": 0.1, "since_sent_s": 0.2}, True, False),
        ({"since_received_s": 4.9, "since_sent_s": 20.0}, True, False),
        ({"since_received_s": 5.1, "since_sent_s": 20.0}, True, True),
        ({"received": 0, "sent": 0}, True, True),
        ({"received": 0, "sent": 0, "since_received_s": 0.1, "since_sent_s": 0.1}, True, False),
        ({"sent": 0, "since_received_s": 4.0, "since_sent_s": 4.0}, True, False),
        ({"unread": 1}, True, False),
        ({"unsent": 1}, True, False),
        ({"since_received_s": 0.0, "since_sent_s": 3.0}, False, True),
        ({"since_received_s": 0.0, "since_sent_s": 3.0, "unread": 1}, False, False),
    ],
    ids=[
        "answered", "just answered", "answered within a tick", "just so", "an upload within a tick", "half a request",
        "a request", "an upload", "no upload any more", "silent from the start", "new", "a first upload",
        "not yet read", "not yet sent", "in flight", "pipelined",
    ],
)  # fmt: skip
def test_who_spoke_last_tells(fields: dict[str, float], is_read: bool, shut: bool) -> None:
    """A connection may be shut when its last request is answered, or whole; not while one is on its way."""
    assert may_be_shut(connection(**fields), is_read=is_read) is shut
