"""Results through shared memory: with a real Triton, and what a server may do to it."""

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from vitriton._shm import lease as lease_module
from vitriton._shm import names
from vitriton._shm.errors import may_still_write
from vitriton._shm.host import is_same_host
from vitriton._shm.names import Owned, dead_regions
from vitriton._shm.regions import MIN_BYTES, Regions, unregister_dead
from vitriton._wire.address import parse_address
from vitriton._wire.connection import Connection
from vitriton._wire.grpc import GrpcTransport
from vitriton._wire.status import Failure, classify
from vitriton._wire.transport import CallError, Code, InferRequest

HERE = Path(__file__).parent
ITEM_BYTES = 1024 * 512 * 4
PATIENCE_S = 60.0

CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "last_hidden_state" data_type: TYPE_FP32 dims: [ 1024, 512 ] }
instance_group { count: 2 kind: KIND_CPU }
"""

STAGED = """
platform: "ensemble"
max_batch_size: 8
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "last_hidden_state" data_type: TYPE_FP32 dims: [ 1024, 512 ] }
ensemble_scheduling {
  step {
    model_name: "large"
    model_version: -1
    input_map { key: "image" value: "image" }
    output_map { key: "last_hidden_state" value: "last_hidden_state" }
  }
}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """`large`, which makes (1024, 512) of each number, and `staged`, an ensemble around it."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "large" / "1").mkdir(parents=True)
    shutil.copy(HERE / "large_model.py", folder / "large" / "1" / "model.py")
    (folder / "large" / "config.pbtxt").write_text(CONFIG)
    (folder / "staged" / "1").mkdir(parents=True)
    (folder / "staged" / "config.pbtxt").write_text(STAGED)
    return folder


@pytest.fixture(scope="module")
def address(repository):
    from vitriton_server import TritonServer

    with TritonServer(repository) as server:
        yield server.grpc_address


@pytest.fixture
def transport(address):
    transport = connect(address)
    yield transport
    transport.close()


@pytest.fixture
def regions(transport):
    regions = Regions(transport)
    yield regions
    regions.close(PATIENCE_S)
    assert not list(transport.regions(PATIENCE_S))
    assert not left_files()


def connect(address):
    return GrpcTransport(parse_address(address), Connection())


def left_files(pid=None):
    """Those of this process, or of another."""
    return list(Path("/dev/shm").glob(f"vitriton-*-{pid or os.getpid()}-*"))


def warm(regions, byte_size=ITEM_BYTES):
    """A lease, once the region is there."""
    lease = regions.acquire(byte_size)
    if lease is None:
        assert regions.settle(PATIENCE_S)
        lease = regions.acquire(byte_size)
    assert lease is not None, regions.off
    return lease


def send(transport, lease, orders, *, model="large", timeout_s=PATIENCE_S):
    return transport.send(
        InferRequest(
            model=model,
            input_name="image",
            images=orders,
            output_name="last_hidden_state",
            timeout_s=None,
            region=lease.region,
        ),
        timeout_s,
    )


def values(lease):
    """The numbers that stand in the region, without repetitions."""
    return set(np.unique(np.frombuffer(lease.data, np.float32)).tolist())


def eventually(condition):
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, "still not so"
        time.sleep(0.02)


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("model", ["large", "staged"])
def test_results_come_through_shared_memory(transport, regions, model):
    """The reply has shape and dtype and no content, which stands in the region; the region is used again."""
    names = set()
    for value in (1.0, 2.0, 3.0):
        lease = warm(regions, 2 * ITEM_BYTES)
        reply = send(transport, lease, [str(value).encode()] * 2, model=model).result()
        assert (reply.name, reply.datatype, reply.shape, reply.data) == (
            "last_hidden_state",
            "FP32",
            (2, 1024, 512),
            b"",
        )
        assert len(lease.data) == 2 * ITEM_BYTES
        assert values(lease) == {value}
        names.add(lease.region.name)
        lease.release()
    assert len(names) == 1
    assert list(transport.regions(PATIENCE_S)) == list(names)


@pytest.mark.usefixtures("subprocesses")
def test_small_results_are_not_shared(regions):
    """Below the threshold there is never a region."""
    assert regions.acquire(MIN_BYTES - 1) is None
    assert regions.settle(0)


@pytest.mark.usefixtures("subprocesses")
def test_the_file_is_gone_while_the_region_is_used(transport, regions):
    """Triton has mapped it by the time the registration is answered, so the name is not needed any more."""
    lease = warm(regions)
    assert not left_files()
    send(transport, lease, [b"7"]).result()
    assert values(lease) == {7.0}
    lease.release()


@pytest.mark.usefixtures("subprocesses")
def test_as_many_regions_as_leases(transport, regions):
    """Threads that use it at a time each get their own results; afterwards all regions are free."""

    def work(value):
        for _ in range(5):
            lease = regions.acquire(ITEM_BYTES)
            if lease is None:
                assert regions.settle(PATIENCE_S)
                continue
            send(transport, lease, [str(value).encode()]).result()
            if values(lease) != {float(value)}:
                wrong.append(value)
            lease.release()

    wrong = []
    threads = [threading.Thread(target=work, args=(value,)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not wrong
    assert 1 <= len(transport.regions(PATIENCE_S)) <= 6


@pytest.mark.usefixtures("subprocesses")
def test_an_abandoned_region_is_not_used_again(transport, regions):
    """A request that timed out may still be written: its region is unregistered as soon as Triton lets it go."""
    lease = warm(regions)
    abandoned = lease.region.name
    with pytest.raises(CallError) as caught:
        send(transport, lease, [b"1:1.0"], timeout_s=0.2).result()
    assert may_still_write(caught.value)
    lease.drop()
    other = warm(regions)
    assert other.region.name != abandoned
    other.release()
    assert regions.settle(PATIENCE_S)
    assert list(transport.regions(PATIENCE_S)) == [other.region.name]


@pytest.mark.usefixtures("subprocesses")
def test_a_refused_request_leaves_the_region_usable(transport, regions):
    """The server has answered, so it no longer writes; what stood there before is not taken for a result."""
    lease = warm(regions)
    send(transport, lease, [b"5"]).result()
    lease.release()
    again = warm(regions)
    assert again.region == lease.region
    with pytest.raises(CallError) as caught:
        send(transport, again, [b"refuse"]).result()
    assert not may_still_write(caught.value)
    assert len(again.data) == 0
    again.release()


@pytest.mark.usefixtures("subprocesses")
def test_a_region_that_is_too_small_is_an_error(transport, regions):
    """Triton writes nothing beyond what the request allows."""
    lease = warm(regions)
    with pytest.raises(CallError, match="should be at least"):
        send(transport, lease, [b"1", b"2"]).result()
    lease.release()


@pytest.mark.usefixtures("subprocesses")
def test_regions_of_a_killed_client_are_unregistered(address, transport, tmp_path):
    """A client that is killed leaves no file; its regions go when the next client comes, a running request's too."""
    ready = tmp_path / "ready"
    code = f"""
import sys; sys.path.insert(0, {str(HERE.parent)!r})
from client.test_shared_memory import *
transport = connect({address!r})
regions = Regions(transport)
idle, busy = warm(regions), warm(regions)
idle.release()
pending = send(transport, busy, [b"1:1.5"])
Path({str(ready)!r}).write_text("{{}}")
pending.result()
"""
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        eventually(lambda: ready.exists() or child.poll() is not None)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    left = transport.regions(PATIENCE_S)
    assert len(left) == 2
    assert not left_files(child.pid)
    assert dead_regions(left) == list(left)

    def swept():
        unregister_dead(transport, PATIENCE_S)
        return not transport.regions(PATIENCE_S)

    eventually(swept)


@pytest.mark.usefixtures("subprocesses")
def test_the_first_registration_sweeps(transport):
    """A client has the regions of dead ones unregistered before it registers its own; others' stay."""
    dead, foreign, owner = Owned().name, "somebody-elses", Owned()
    for name in (dead, foreign, owner.name):
        register(transport, name)
    regions = Regions(transport)
    lease = warm(regions)
    assert set(transport.regions(PATIENCE_S)) == {lease.region.name, foreign, owner.name}
    lease.release()
    regions.close()
    for name in (foreign, owner.name):
        transport.unregister_region(name, PATIENCE_S)


def register(transport, name):
    path = Path("/dev/shm") / f"test-{name}"
    path.write_bytes(bytes(4096))
    try:
        transport.register_region(name, f"/{path.name}", 4096, PATIENCE_S)
    finally:
        path.unlink()


@pytest.mark.usefixtures("subprocesses")
def test_a_client_that_is_not_closed_unregisters_when_it_exits(address, transport):
    """The end of the process is as good as close()."""
    code = f"""
import sys; sys.path.insert(0, {str(HERE.parent)!r})
from client.test_shared_memory import *
transport = connect({address!r})
regions = Regions(transport)
warm(regions).release()
print(*transport.regions(PATIENCE_S))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert result.stdout.startswith("vitriton-")
    assert not result.stderr
    assert not transport.regions(PATIENCE_S)


@pytest.mark.usefixtures("subprocesses")
def test_a_forked_child_leaves_the_parents_regions(transport, regions):
    """Closing in a fork does nothing."""
    lease = warm(regions)
    child = os.fork()
    if not child:
        regions.close()
        os._exit(0 if dead_regions([lease.region.name]) == [] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert list(transport.regions(PATIENCE_S)) == [lease.region.name]
    lease.release()


@pytest.mark.usefixtures("subprocesses")
def test_a_server_that_was_started_again(repository):
    """It has forgotten the regions, says so in a way that is recognised, and gets new ones."""
    from vitriton_server import TritonServer, WatchPolicy

    watch = WatchPolicy(restart=True, backoff_s=0)
    with TritonServer(repository, watch=watch) as server:
        transport = connect(server.grpc_address)
        regions = Regions(transport)
        warm(regions).release()
        killed = server.pid
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: server.pid != killed and is_ready(transport))
        lease = warm(regions)
        with pytest.raises(CallError) as caught:
            send(transport, lease, [b"1"]).result()
        assert classify(caught.value.code, caught.value.message) is Failure.UNKNOWN_REGION
        assert not may_still_write(caught.value)
        lease.release()
        regions.forget()
        again = warm(regions)
        assert again.region.name != lease.region.name
        send(transport, again, [b"2"]).result()
        assert values(again) == {2.0}
        again.release()
        regions.close()
        assert not transport.regions(PATIENCE_S)
        transport.close()


def is_ready(transport):
    try:
        return transport.is_model_ready("large", PATIENCE_S)
    except CallError:
        return False


@pytest.mark.usefixtures("subprocesses")
def test_a_server_that_restricts_shared_memory(repository):
    """It is asked once; everything else works."""
    from vitriton_server import TritonServer

    restricted = ["--grpc-restricted-protocol=shared-memory:admin-key=x"]
    with TritonServer(repository, triton_arguments=restricted) as server:
        transport = connect(server.grpc_address)
        regions = Regions(transport)
        assert regions.acquire(ITEM_BYTES) is None
        assert regions.settle(PATIENCE_S)
        assert "restricted" in regions.off
        assert regions.acquire(ITEM_BYTES) is None
        assert not left_files()
        regions.close()
        transport.close()


# Without a Triton


class Server:
    """What a server does with regions, for a transport's methods."""

    address = "grpc://127.0.0.1:8001"

    def __init__(self, *, fails=None, in_use=0):
        self.known = []
        self.fails = fails
        self.in_use = in_use
        self.calls = []

    def register_region(self, name, key, byte_size, timeout_s):
        self.calls.append("register")
        if self.fails is not None:
            raise self.fails
        assert (Path("/dev/shm") / key.removeprefix("/")).stat().st_size == byte_size
        self.known.append(name)

    def unregister_region(self, name, timeout_s):
        self.calls.append("unregister")
        if self.in_use:
            self.in_use -= 1
            raise CallError(Code.INTERNAL, f"Cannot unregister shared memory region '{name}', it is currently in use.")
        if name in self.known:
            self.known.remove(name)

    def regions(self, timeout_s):
        self.calls.append("regions")
        return list(self.known)


@pytest.mark.parametrize(
    ("code", "message", "may"),
    [
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", True),
        (Code.CANCELLED, "cancelled by this client", True),
        (Code.UNAVAILABLE, "Socket closed", True),
        (Code.INTERNAL, "Received RST_STREAM", True),
        (Code.UNKNOWN, "", True),
        (Code.UNAVAILABLE, "Exceeds maximum queue size", False),
        (Code.UNAVAILABLE, "Request timeout expired", False),
        (Code.INVALID_ARGUMENT, "cannot use 1 of 1 images", False),
        (Code.NOT_FOUND, "Unable to find shared memory region: 'x'", False),
    ],
)
def test_who_may_still_write(code, message, may):
    """Only an answer of Triton itself shows that it has ended the work on a request."""
    assert may_still_write(CallError(code, message)) is may


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (Code.INTERNAL, "Unable to open shared memory region: '/x'"),
        (Code.UNIMPLEMENTED, "Shared memory is disabled"),
        (Code.PERMISSION_DENIED, "no"),
        (Code.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-admin-key'"),
    ],
)
def test_a_refusal_is_for_good(code, message):
    """A server that cannot or will not share is not asked again."""
    server = Server(fails=CallError(code, message))
    regions = Regions(server)
    for _ in range(3):
        assert regions.acquire(MIN_BYTES) is None
        assert regions.settle(PATIENCE_S)
    assert message in regions.off
    assert server.calls.count("register") == 1
    assert not left_files()
    regions.close()


def test_a_server_that_is_down_is_asked_again():
    """A failure to reach it is no refusal."""
    server = Server(fails=CallError(Code.UNAVAILABLE, "Connection refused"))
    regions = Regions(server)
    assert regions.acquire(MIN_BYTES) is None
    assert regions.settle(PATIENCE_S)
    server.fails = None
    warm(regions, MIN_BYTES).release()
    regions.close()
    assert not server.known


def test_another_host_is_not_asked():
    """An address that is not of this machine ends it before anything is sent."""
    server = Server()
    server.address = "grpc://192.0.2.1:8001"
    regions = Regions(server)
    assert regions.acquire(MIN_BYTES) is None
    assert regions.settle(PATIENCE_S)
    assert regions.off == "it is on another host"
    assert not server.calls


@pytest.mark.parametrize(
    ("host", "same"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("localhost", True), ("192.0.2.1", False), ("no.such.invalid", False)],
)
def test_same_host(host, same):
    """Loopback and the machine's own addresses are, documentation addresses and unknown names are not."""
    assert is_same_host(host) is same


def test_a_full_shared_memory_file_system(monkeypatch):
    """It is found out when the region is made; what there is goes on being used."""
    server = Server()
    regions = Regions(server)
    lease = warm(regions, MIN_BYTES)

    def full(descriptor, offset, byte_size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease_module.os, "posix_fallocate", full)
    assert regions.acquire(MIN_BYTES) is None
    assert regions.settle(PATIENCE_S)
    monkeypatch.undo()
    assert regions.acquire(MIN_BYTES) is None
    assert regions.settle(PATIENCE_S)
    assert not regions.off
    assert len(server.known) == 1
    lease.release()
    again = regions.acquire(MIN_BYTES)
    assert again is not None
    again.release()
    assert not left_files()
    regions.close()


def test_bounds():
    """Neither more regions nor more bytes than allowed; idle ones make room for one that is larger."""
    server = Server()
    regions = Regions(server, max_regions=2, max_bytes=4 * MIN_BYTES)
    first, second = warm(regions, MIN_BYTES), warm(regions, MIN_BYTES)
    assert regions.acquire(MIN_BYTES) is None
    assert regions.settle(PATIENCE_S)
    assert len(server.known) == 2
    first.release()
    second.release()
    large = warm(regions, 4 * MIN_BYTES - 1)
    assert len(server.known) == 1
    assert regions.acquire(4 * MIN_BYTES + 1) is None
    assert regions.settle(PATIENCE_S)
    large.release()
    regions.close()
    assert not server.known


def test_idle_regions_are_given_up():
    """What nobody uses for a while is unregistered, and then the thread ends."""
    server = Server()
    regions = Regions(server, idle_s=0.05)
    warm(regions, MIN_BYTES).release()
    eventually(lambda: not server.known)
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "vitriton-regions"])
    warm(regions, MIN_BYTES).drop()
    regions.close()


def test_unregistering_is_tried_again_while_the_region_is_in_use():
    """Triton 2.51 refuses it until the request has ended."""
    server = Server(in_use=2)
    regions = Regions(server)
    warm(regions, MIN_BYTES).drop()
    assert regions.settle(PATIENCE_S)
    assert not server.known
    server.in_use = 2
    lease = warm(regions, MIN_BYTES)
    regions.close(PATIENCE_S)
    assert not server.known
    lease.release()
    assert regions.acquire(MIN_BYTES) is None


def test_a_close_is_bounded():
    """A region that stays in use does not keep it, and is found by the next client of this process."""
    server = Server(in_use=10**6)
    regions = Regions(server)
    warm(regions, MIN_BYTES).drop()
    regions.close(0.1)
    assert len(server.known) == 1
    del regions
    gc.collect()
    server.in_use = 0
    unregister_dead(server, PATIENCE_S)
    assert not server.known


def test_an_address_with_several_servers():
    """One that forgets the regions all the time gets no more for a while."""
    regions = Regions(Server())
    for _ in range(3):
        warm(regions, MIN_BYTES).release()
        regions.forget()
        regions.forget()
    assert regions.acquire(MIN_BYTES) is None
    assert regions.settle(PATIENCE_S)
    assert regions.acquire(MIN_BYTES) is None
    regions.close()


def test_data_after_the_end():
    """A lease gives nothing once it has ended; an array that looks at the region then keeps its memory."""
    server = Server()
    regions = Regions(server)
    lease = warm(regions, MIN_BYTES)
    lease._memory.mapping[:] = bytes(range(256)) * (MIN_BYTES // 256)
    array = np.frombuffer(lease.data, np.uint8)
    assert not array.flags.writeable
    lease.drop()
    lease.drop()
    with pytest.raises(ValueError, match="ended"):
        _ = lease.data
    regions.close()
    assert array[255] == 255


@pytest.mark.usefixtures("subprocesses")
def test_names_tell_the_owner(monkeypatch):
    """Only names of this host's ended processes are judged dead, also where the process id is in use again."""
    owner = Owned()
    _, scope, pid, start, random = owner.name.split("-")
    with subprocess.Popen(["sleep", "60"]) as child:
        born = names._start_time(child.pid)
        alive = [f"vitriton-{scope}-{child.pid}-{number}-{random}" for number in (born, 0)]
        recycled = f"vitriton-{scope}-{child.pid}-{born - 1}-{random}"
        assert dead_regions([owner.name, *alive, recycled]) == [recycled]
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert dead_regions(alive[:1]) == alive[:1]  # a zombie
    gone = alive[0]
    assert dead_regions([gone, gone.replace(scope, "0" * 12), "other", f"{gone}x"]) == [gone]
    abandoned = f"vitriton-{scope}-{pid}-{start}-{'0' * 16}"
    assert dead_regions([abandoned, owner.name]) == [abandoned]


@pytest.mark.usefixtures("subprocesses")
def test_a_host_that_hides_itself(monkeypatch, tmp_path):
    """Without /proc nothing of others is judged."""
    with subprocess.Popen(["true"]) as child:
        pass
    scope = Owned().name.split("-")[1]
    name = f"vitriton-{scope}-{child.pid}-1-{'0' * 16}"
    assert dead_regions([name]) == [name]
    monkeypatch.setattr(names, "_BOOT_ID", tmp_path / "none")
    assert dead_regions([name]) == []


def test_files_of_killed_clients_are_removed(tmp_path, monkeypatch):
    """What a client that was killed while it registered has left in /dev/shm goes; other files stay."""
    monkeypatch.setattr(names, "SHM_FOLDER", tmp_path)
    owner = Owned()
    dead = Owned().name
    gc.collect()
    for name in (owner.name, dead, "vitriton-other"):
        (tmp_path / name).touch()
    names.unlink_dead()
    assert {path.name for path in tmp_path.iterdir()} == {owner.name, "vitriton-other"}
