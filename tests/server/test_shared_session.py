"""Instances that share the session of the first: the sockets between them, and in a real Triton."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tritonclient.grpc as triton
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from server.processes import children
from server.tiny_models import add_encoder, write_config
from tritonclient.utils import InferenceServerException
from vitriton_server import ModelLoadError, ServerDied, TritonServer
from vitriton_server._process import runtime

SHARED = (
    "instance_group { kind: KIND_CPU count: 3 } "
    'parameters { key: "share_session_between_instances" value { string_value: "true" } }'
)
SOURCE = Path(runtime.__file__).parent.with_name("backends") / "onnxruntime" / "vitriton_onnxruntime_shared.py"


@pytest.fixture(scope="module")
def shared() -> ModuleType:
    """The module as the backend imports it."""
    spec = importlib.util.spec_from_file_location(SOURCE.stem, SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"test-{tmp_path}"


def test_who_shares(shared: ModuleType, tmp_path: Path) -> None:
    """The instances of one group and one file; not those of another model, another group or another file."""
    graph, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    graph.write_bytes(b"")
    other.write_bytes(b"")
    first, number = shared.shared_name(graph, "vit_encoder_0_0")
    assert number == 0
    assert shared.shared_name(graph, "vit_encoder_0_11") == (first, 11)
    assert shared.shared_name(graph, "vit_encoder_1_0")[0] != first
    assert shared.shared_name(graph, "dino_encoder_0_0")[0] != first
    assert shared.shared_name(other, "vit_encoder_0_0")[0] != first
    other.replace(graph)
    assert shared.shared_name(graph, "vit_encoder_0_0")[0] != first


def test_one_batch_at_a_time(shared: ModuleType, name: str) -> None:
    """All instances get their own results, and no two batches are computed at once."""
    inside = threading.Semaphore(1)

    def compute(array: np.ndarray, factor: int) -> np.ndarray:
        assert inside.acquire(blocking=False)
        time.sleep(0.01)
        inside.release()
        return array * factor

    owner = shared.Owner(name)
    owner.start(compute)
    borrowers = [shared.Borrower(name) for _ in range(2)]
    for borrower in borrowers:
        borrower.wait()

    def ask(ask_number: int) -> None:
        instance = [owner, *borrowers][ask_number % 3]
        with locks[ask_number % 3]:  # Triton gives an instance one batch at a time
            result = instance(np.full((2, 1000), ask_number), 3)
        np.testing.assert_array_equal(result, np.full((2, 1000), 3 * ask_number))

    locks = [threading.Lock() for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(60)))


def test_the_others_wait_until_it_is_loaded(shared: ModuleType, name: str) -> None:
    """Whichever process is the first to start."""
    borrower = shared.Borrower(name)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(borrower.wait)
        owner = shared.Owner(name)
        time.sleep(0.1)
        assert not waiting.done()
        owner.start(lambda number: number + 1)
        waiting.result(60)
    assert borrower(1) == 2


def test_an_error_of_the_graph_is_the_request_s(shared: ModuleType, name: str) -> None:
    """It keeps its type on the way, by which the backend tells a caller's fault from its own; the session goes on."""
    owner, borrower = shared.Owner(name), shared.Borrower(name)
    owner.start(lambda text: [InvalidArgument(text)])
    borrower.wait()
    for text in ("the index is outside of the table", "again"):
        [error] = borrower(text)
        assert isinstance(error, InvalidArgument)
        assert str(error) == text


def test_a_model_that_cannot_be_loaded(shared: ModuleType, name: str) -> None:
    """The others do not wait for a session that there will never be."""
    owner, borrower = shared.Owner(name), shared.Borrower(name)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(borrower.wait)
        owner.fail(others=1)
        with pytest.raises(shared.OwnerGoneError, match="has ended"):
            waiting.result(60)


def test_none_that_starts(shared: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance does not wait for ever for the first."""
    monkeypatch.setattr(shared, "_CONNECT_S", 0.1)
    with pytest.raises(shared.OwnerGoneError, match="does not start"):
        shared.Borrower(name).wait()


def test_another_user_is_refused(shared: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process of another user sends is never unpickled, on either side."""
    owner = shared.Owner(name)
    owner.start(lambda: None)
    monkeypatch.setattr(shared.os, "getuid", lambda: os.geteuid() + 1)
    monkeypatch.setattr(shared, "_CONNECT_S", 0.1)
    with pytest.raises(shared.OwnerGoneError, match="does not start"):
        shared.Borrower(name).wait()


@contextmanager
def owner_process(name: str, answer: int) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the session, and answers each batch with a number, after the seconds that the batch says."""
    code = (
        f"import sys, time; sys.path.insert(0, {str(SOURCE.parent)!r})\n"
        "from vitriton_onnxruntime_shared import Owner\n"
        f"owner = Owner({name!r})\n"
        f"owner.start(lambda seconds: time.sleep(seconds) or {answer})\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_an_owner_that_is_killed(shared: ModuleType, name: str) -> None:
    """The batch that it computed fails, and so do the next, until a process takes its place."""
    borrower = shared.Borrower(name)
    with owner_process(name, 1) as first, ThreadPoolExecutor(1) as pool:
        borrower.wait()
        assert borrower(0) == 1
        computing = pool.submit(borrower, 600)
        first.kill()
        with pytest.raises(shared.OwnerGoneError, match="has ended"):
            computing.result(60)
    with pytest.raises(shared.OwnerGoneError, match="has ended"):
        borrower(0)
    with owner_process(name, 2):
        assert borrower(0) == 2


def test_a_model_that_is_loaded_again(shared: ModuleType, name: str) -> None:
    """The new instances find a session while the old ones still compute, and keep one when those end."""
    borrower = shared.Borrower(name)
    with owner_process(name, 1) as old, owner_process(name, 2):
        borrower.wait()
        old.kill()
        old.wait()
        assert borrower(0) == 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A Triton whose encoder has three instances that share a session."""
    repository = tmp_path_factory.mktemp("shared")
    add_encoder(repository, "shared", delay_s=0, more=SHARED)
    with TritonServer(repository) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as connected:
        yield connected


def gray(client: triton.InferenceServerClient, value: int) -> np.ndarray | None:
    pixels = triton.InferInput("pixels", [1, 4, 4, 3], "UINT8")
    pixels.set_data_from_numpy(np.full((1, 4, 4, 3), value, np.uint8))
    return client.infer("shared", [pixels], client_timeout=60).as_numpy("embedding")


def sessions(server: TritonServer) -> list[int]:
    """The processes of the model that have an address, of which there is one."""
    owners = {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()
        if "@vitriton-session-" in line and line.split()[3] == "00010000"  # it listens
    }
    return [
        pid
        for pid in children(server.pid)
        if any(
            str(link.readlink()).removeprefix("socket:[").removesuffix("]") in owners
            for link in Path(f"/proc/{pid}/fd").iterdir()
            if link.is_symlink()
        )
    ]


def test_all_instances_answer(server: TritonServer, client: triton.InferenceServerClient) -> None:
    """Three processes, one of which has the session; every answer is the request's own."""
    assert len([line for line in children(server.pid).values() if "/shared/" in line]) == 3
    assert len(sessions(server)) == 1
    with ThreadPoolExecutor(6) as pool:
        for value, embedding in enumerate(pool.map(lambda value: gray(client, value), range(120))):
            np.testing.assert_array_equal(embedding, np.full((1, 3), value, np.float32))


@pytest.mark.usefixtures("subprocesses")
def test_its_process_is_killed(tmp_path: Path) -> None:
    """Triton ends, as it does without any other instance; until then no request gets a wrong answer, and none waits."""
    add_encoder(tmp_path, "shared", delay_s=0, more=SHARED)
    with TritonServer(tmp_path) as server, triton.InferenceServerClient(server.grpc_address) as client:
        [owner] = sessions(server)
        os.kill(owner, signal.SIGKILL)
        end = time.monotonic() + 120
        while server.is_alive() and time.monotonic() < end:
            with suppress(InferenceServerException):
                np.testing.assert_array_equal(gray(client, 7), np.full((1, 3), 7, np.float32))
        with pytest.raises(ServerDied, match=r"the process of the Python step .* has ended"):
            server.wait(60)


@pytest.mark.usefixtures("subprocesses")
def test_a_graph_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    """The reason is the graph's, and not that other instances wait for it."""
    folder = write_config(
        tmp_path, "broken", "onnxruntime", [("x", "TYPE_FP32", [1])], [("y", "TYPE_FP32", [1])], more=SHARED
    )
    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelLoadError, match=r"onnxruntime [\d.]+ cannot load .*model\.onnx"):
        TritonServer(tmp_path).start()
