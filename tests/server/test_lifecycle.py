"""Start, end, death and restart of a real Triton."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from server.processes import children, is_running, is_zombie, shared_memory, wait_until
from vitriton_server import LauncherError, ServerDied, TritonServer, WatchPolicy
from vitriton_server._process import guard as _guard
from vitriton_server._process.failure import death
from vitriton_server._process.log import relevant

QUICK = WatchPolicy(canary_interval_s=0.5)
PNG = np.array([[b"\x89PNG"]], dtype=np.object_)


def embed(address: str) -> np.ndarray:
    image = triton.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(PNG)
    client = triton.InferenceServerClient(address)
    try:
        return client.infer("tiny_pooled", [image], client_timeout=60).as_numpy("pixels")
    finally:
        client.close()


def stub_of(pid: int) -> int:
    return next(iter(children(pid)))


@pytest.mark.usefixtures("subprocesses")
def test_a_with_block_leaves_nothing(python_repository: Path, work_folder: Path) -> None:
    """Inside the server answers; afterwards no process, thread, temporary folder or shared memory is left of it."""
    threads = set(threading.enumerate())
    with TritonServer(python_repository) as server:
        assert server.is_alive()
        assert server.models == ("tiny_pooled", "tiny_preprocess")
        assert embed(server.grpc_address).shape == (1, 4, 4, 3)
        assert any("Started GRPCInferenceService" in line for line in server.log_tail(200))
        assert list(work_folder.iterdir())
        family = [server.pid, *children(server.pid)]
        memory = shared_memory(server.pid)
    assert not server.is_alive()
    assert server.wait()
    assert not any(is_running(pid) or is_zombie(pid) for pid in family)
    assert memory
    assert not any(region.exists() for region in memory)
    assert not list(work_folder.iterdir())
    wait_until(lambda: set(threading.enumerate()) <= threads, 60, "the end of its threads")


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_of_the_environment_is_not_asked(name: str, python_repository: Path, monkeypatch) -> None:
    """A container gets its proxy from outside; the launcher's own questions stay on this host."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with TritonServer(python_repository, ready_timeout_s=120) as server:
        assert server.models == ("tiny_pooled", "tiny_preprocess")


@pytest.mark.usefixtures("subprocesses")
def test_the_kernel_lets_a_thread_finish_what_wakes_another(python_repository: Path) -> None:
    """All of tritonserver's threads, and its stubs, are SCHED_BATCH; the launcher is what it was."""
    with TritonServer(python_repository) as server:
        threads = [int(thread.name) for thread in Path(f"/proc/{server.pid}/task").iterdir()]
        assert {os.sched_getscheduler(pid) for pid in (*threads, *children(server.pid))} == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.usefixtures("subprocesses")
def test_a_policy_of_the_kernel_that_someone_chose_stays(python_repository: Path) -> None:
    """A launcher that runs as SCHED_IDLE starts a tritonserver that does."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        with TritonServer(python_repository) as server:
            assert os.sched_getscheduler(server.pid) == os.SCHED_IDLE
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_a_sandbox_without_policies_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses, tritonserver runs as it would have."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.sched_setscheduler", refuse)
    _guard.schedule_as_batch()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_server_starts_once(python_repository: Path) -> None:
    """One that has been stopped says so when it is started; stopping twice is no error."""
    server = TritonServer(python_repository)
    server.stop()
    server.stop()
    with pytest.raises(LauncherError, match="starts once"):
        server.start()


@pytest.mark.usefixtures("subprocesses")
def test_a_dead_stub_ends_the_server(python_repository: Path, work_folder: Path) -> None:
    """Triton still calls itself ready when its python step is killed; the watch finds out, and wait() says so."""
    with TritonServer(python_repository, watch=QUICK) as server:
        family = [server.pid, *children(server.pid)]
        os.kill(stub_of(server.pid), signal.SIGKILL)
        with pytest.raises(ServerDied, match=r"not healthy|Python step \S+ has ended"):
            server.wait(60)
        assert not server.is_alive()
        assert not any(is_running(pid) for pid in family)
        assert not list(work_folder.iterdir())


@pytest.mark.usefixtures("subprocesses")
def test_a_dead_stub_is_replaced_on_request(python_repository: Path) -> None:
    """With restart the models answer again, on the same ports, from another Triton."""
    policy = WatchPolicy(canary_interval_s=0.5, restart=True, backoff_s=0)
    with TritonServer(python_repository, watch=policy) as server:
        address, first = server.grpc_address, server.pid
        embed(address)  # a connection that is closing down must not count as a taken port
        os.kill(stub_of(first), signal.SIGKILL)
        wait_until(lambda: server.pid != first and answers(address), 60, "an answer of the restarted server")
        assert server.grpc_address == address
        assert server.is_alive()


def answers(address: str) -> bool:
    try:
        return embed(address).size > 0
    except triton.InferenceServerException:
        return False


@pytest.mark.usefixtures("subprocesses")
def test_a_triton_that_exits_is_noticed(python_repository: Path) -> None:
    """Without any canary, a killed tritonserver ends the wait."""
    with TritonServer(python_repository, watch=WatchPolicy(canary_interval_s=0)) as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(
            ServerDied,
            match=r"tritonserver was killed with status 137 \(SIGKILL\).*; turn on `restart` \(--restart\) to have",
        ) as caught:
            server.wait(60)
        assert "+-------" in "".join(server.log_tail(1000))
        assert not any(line.startswith(("+", "|", "I")) for line in caught.value.log)


def test_the_log_of_a_death_is_what_may_tell_of_it() -> None:
    """Warnings, errors and what a model has printed; neither the course of the start nor a driver that is not there."""
    stamp = "1129 20:09:08.673062 11713 server.cc:241]"
    kept = [f'W{stamp} "low"', f'E{stamp} "bad"', "Traceback (most recent call last):", "  in execute"]
    left_out = [f'I{stamp} "ready"', "+-----+", "| Model | Version |", "", "Error: Failed to initialize NVML"]
    assert relevant(left_out + kept, has_gpu=False) == kept
    assert relevant(left_out + kept, has_gpu=True) == [left_out[-1], *kept]


def test_who_has_killed_it_is_not_known() -> None:
    """A death by kill -9 is told from one that Triton has caused itself, and from one for lack of memory."""
    assert death(137, None) == "tritonserver was killed with status 137 (SIGKILL) by an unknown process"
    assert death(137, "no memory") == "tritonserver was killed with status 137 (SIGKILL): no memory"
    assert death(139, None) == "tritonserver ended by itself with status 139 (SIGSEGV)"


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_callback_that_raises(error: type[BaseException], python_repository: Path) -> None:
    """Whatever a caller's callback raises for a line of the log, the log is read on, and the server stops cleanly."""

    def fail(line: str) -> None:
        raise error(line)

    server = TritonServer(python_repository, on_log_line=fail)
    server.start()
    assert server.stop()
    assert len(server.log_tail()) > 1


@pytest.mark.usefixtures("subprocesses")
def test_triton_dies_with_its_guard(python_repository: Path, work_folder: Path) -> None:
    """A guard that is killed takes Triton and its stubs along, and the launcher clears up in its place."""
    with TritonServer(python_repository) as server:
        family = [server.pid, *children(server.pid)]
        guard = next(pid for pid, line in children(os.getpid()).items() if str(work_folder) in line)
        os.kill(guard, signal.SIGKILL)
        with pytest.raises(ServerDied):
            server.wait(60)
        assert not any(is_running(pid) for pid in family)
        assert not list(work_folder.iterdir())


@pytest.mark.usefixtures("subprocesses")
def test_a_server_survives_the_thread_that_started_it(python_repository: Path) -> None:
    """Starting it in a thread that ends right away is the same as starting it anywhere else."""
    server = TritonServer(python_repository)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        assert embed(server.grpc_address).size
    finally:
        server.stop()


FORKING_LAUNCHER = """
import os, sys, time
from vitriton_server import TritonServer
with TritonServer(sys.argv[1]) as server:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, server.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("subprocesses")
def test_a_fork_of_the_launcher_does_not_keep_it_alive(
    python_repository: Path, own_environment: dict[str, str]
) -> None:
    """A process that the launcher forked holds copies of its pipes; the server ends with the launcher all the same."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING_LAUNCHER, str(python_repository)]
    with subprocess.Popen(command, env=own_environment, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        fork, server = map(int, launcher.stdout.readline().split())
        try:
            family = [server, *children(server)]
            launcher.kill()
            wait_until(lambda: not any(map(is_running, family)), 60, "the end of all processes")
            assert is_running(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


@pytest.mark.usefixtures("subprocesses")
def test_stop_interrupts_a_start(waiting_repository: Path, work_folder: Path) -> None:
    """stop() from another thread while the models load makes start() raise and leaves nothing."""
    server = TritonServer(waiting_repository, on_log_line=lambda line: "loading: " in line and begun.set())
    begun = threading.Event()
    errors: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except LauncherError as exc:
            errors.append(exc)

    starter = threading.Thread(target=start)
    starter.start()
    assert begun.wait(60)
    server.stop()
    starter.join()
    assert [type(error).__name__ for error in errors] == ["ServerStopped"]
    assert not list(work_folder.iterdir())
