"""Shared memory that dead clients have left is unregistered, and nobody else's."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vitriton._shm.names import Owned
from vitriton_server import TritonServer, WatchPolicy
from vitriton_server._watch import regions
from vitriton_server._watch.probe import Probe
from vitriton_server._watch.regions import INTERVAL_S, Sweep

_PATIENCE_S = 60.0

# Registers a region of its own, as a client does, and waits to be killed.
_CLIENT = """
import sys
from pathlib import Path
import tritonclient.grpc as triton
from vitriton._shm.names import Owned
from vitriton_server._admin import GRPC_HEADER
owned = Owned()
path = Path("/dev/shm") / owned.name
path.write_bytes(bytes(4096))
try:
    client = triton.InferenceServerClient(sys.argv[1])
    headers = {GRPC_HEADER: sys.argv[2]}
    client.register_system_shared_memory(owned.name, f"/{path.name}", 4096, headers=headers)
finally:
    path.unlink()
print(owned.name, flush=True)
sys.stdin.read()
"""


class Memory:
    """A Triton with regions."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.looks = 0
        self.in_use: set[str] = set()

    def regions(self) -> list[str]:
        self.looks += 1
        return list(self.names)

    def unregister_region(self, name: str) -> bool:
        if name in self.in_use:
            return False
        self.names.remove(name)
        return True


def test_only_what_the_dead_left_goes() -> None:
    """Regions of living clients, of other hosts and of other programs stay; one that is in use goes later."""
    living = Owned()
    dead = Owned().name
    foreign = f"vitriton-{'0' * 12}-1-1-{'0' * 16}"
    memory = Memory([living.name, dead, foreign, "other"])
    memory.in_use = {dead}
    now = 0.0
    sweep = Sweep(memory, clock=lambda: now)
    sweep.look()
    assert len(memory.names) == 4
    memory.in_use = set()
    now = INTERVAL_S
    sweep.look()
    assert memory.names == [living.name, foreign, "other"]


def test_the_interval() -> None:
    """Triton is asked at once and then at the interval."""
    memory = Memory([])
    now = 0.0
    sweep = Sweep(memory, clock=lambda: now)
    for _ in range(3):
        sweep.look()
    assert (memory.looks, sweep.delay_s()) == (1, INTERVAL_S)
    now = INTERVAL_S
    sweep.look()
    assert memory.looks == 2


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize(("canary_interval_s", "key"), [(0, None), (8, None), (8, "0123456789abcdef")])
def test_a_server_sweeps(
    python_repository: Path, monkeypatch: pytest.MonkeyPatch, canary_interval_s: float, key: str | None
) -> None:
    """A running server forgets the region of a client that was killed, with the canary or without, with a key too."""
    monkeypatch.setattr(regions, "INTERVAL_S", 0.05)
    watch = WatchPolicy(canary_interval_s=canary_interval_s)
    with TritonServer(python_repository, watch=watch, admin_key=key) as server:
        command = [sys.executable, "-c", _CLIENT, server.grpc_address, key or "none"]
        probe = Probe(server.grpc_address, key)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            name = client.stdout.readline().strip()
            assert probe.regions() == [name]
            client.send_signal(signal.SIGKILL)
        ends = time.monotonic() + _PATIENCE_S
        while probe.regions():
            assert time.monotonic() < ends, "the region is still there"
        assert server.is_alive()
        probe.close()


@pytest.mark.usefixtures("subprocesses")
def test_a_server_that_restricts_shared_memory(python_repository: Path) -> None:
    """It says nothing of its regions, which is no failure."""
    restricted = ["--grpc-restricted-protocol=shared-memory:admin-key=x"]
    with TritonServer(python_repository, triton_arguments=restricted) as server:
        probe = Probe(server.grpc_address)
        assert probe.regions() == []
        assert not probe.unregister_region("any")
        probe.close()
