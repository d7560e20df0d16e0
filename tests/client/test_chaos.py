"""What both clients do, over both protocols, when real servers and networks fail."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from client.chaos import (
    FAULTS,
    GRPC_WAYS,
    PATIENCE_S,
    RESTARTS,
    WAYS,
    Way,
    check_error,
    encoded,
    fails_by,
    held,
    kill,
    on_all_ways,
    peak_growth_bytes,
    pictures,
    quick_server,
    resident_bytes,
    through_faults,
    wait_for,
    write_noop,
)
from client.conftest import expected, held_model, write_model
from client.faulty_proxy import HEALTHY, Fault, FaultyProxy
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException
from vitriton import Client, ContractMismatch, DeadlineExceeded, InferenceFailed, Options, ServerBusy, Unavailable
from vitriton.testing import FakeTransport
from vitriton_server import ServerDied, TritonServer

# asyncio's streams warn when a connection of the proxy is cut while it is being made; a leak of the client's own is
# counted in threads, descriptors and bytes.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TINY = service_pb2.ModelConfigResponse(
    config=model_config_pb2.ModelConfig(
        name="tiny_pooled",
        max_batch_size=8,
        input=[model_config_pb2.ModelInput(name="image", data_type="TYPE_STRING", dims=[1])],
        output=[model_config_pb2.ModelOutput(name="embedding", data_type="TYPE_FP32", dims=[4])],
    )
)


@pytest.fixture(params=WAYS, ids=str)
def way(request) -> Way:
    return request.param


@pytest.fixture(scope="module")
def servers(subprocesses, tmp_path_factory):
    """Three servers with `tiny` and `noop`, which are started again on their ports when they die."""
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1")
    write_noop(repository)
    found = [quick_server(repository, watch=RESTARTS) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        try:
            found[0].start()  # on ports that the others then see taken
            list(pool.map(TritonServer.start, found[1:]))
            yield found
        finally:
            list(pool.map(TritonServer.stop, found))


# Servers that die


def test_streams_survive_their_server(servers):
    """Killed and started again in the middle of 500 images, each comes once, in order, with its own value."""
    server, shown = servers[0], pictures(500)
    images, rows = list(map(encoded, shown)), expected(shown)
    killed = threading.Barrier(len(WAYS), lambda: kill(server))

    def run(way: Way) -> None:
        results = []
        with way.connect(way.address(server)) as client:
            for result in client.stream(images, timeout_s=PATIENCE_S):
                results.append(result)
                if len(results) == 100:
                    killed.wait(PATIENCE_S)
            assert client.stats().retries > 0
        assert [result.index for result in results] == list(range(500))
        assert not [result.error for result in results if result.error]
        np.testing.assert_allclose([result.embedding for result in results], rows, rtol=1e-6)

    on_all_ways(run)


def test_a_fleet_survives_one_of_its_servers(servers):
    """One of three is killed under load: no call fails, and when it is back, every client uses it again."""
    shown, dying = pictures(24), servers[1]
    images, rows = list(map(encoded, shown)), expected(shown)
    loaded = threading.Barrier(3 * len(WAYS), lambda: kill(dying))
    back = threading.Event()

    def load(client) -> None:
        for number in itertools.count():
            if number == 10:
                loaded.wait(PATIENCE_S)
            np.testing.assert_allclose(client.embed(images, timeout_s=PATIENCE_S), rows, rtol=1e-6)
            if number > 10 and back.is_set():
                return

    with ExitStack() as stack, ThreadPoolExecutor(3 * len(WAYS)) as pool:
        clients = [stack.enter_context(way.connect(*map(way.address, servers))) for way in WAYS]
        first = dying.pid
        calls = [pool.submit(load, client) for client in clients for _ in range(3)]
        try:
            wait_for(lambda: dying.pid != first and answered(dying) >= 0, "a restart")
        finally:
            back.set()
        for call in calls:
            call.result(PATIENCE_S)
        for client in clients:
            before = answered(dying)
            wait_for(
                lambda client=client, before=before: len(client.embed(images)) and answered(dying) > before,
                "traffic at the server that came back",
            )


def answered(server: TritonServer) -> int:
    """Images since it was started; -1 while it is down."""
    with triton.InferenceServerClient(server.grpc_address) as client:
        try:
            return client.get_inference_statistics("tiny_pooled").model_stats[0].inference_count
        except InferenceServerException:
            return -1


def test_all_down(server, files):
    """Unavailable at the deadline, after several attempts, with everything that one wants to know; nothing runs on."""

    def run(way: Way) -> None:
        with ExitStack() as stack:
            ways = [stack.enter_context(FaultyProxy(way.address(server))) for _ in range(3)]
            client = stack.enter_context(way.connect(*(proxy.address for proxy in ways)))
            client.embed(files, timeout_s=PATIENCE_S)
            for proxy in ways:
                proxy.refuse()
            for call in (client.embed, lambda *args, **more: list(client.stream(*args, **more))):
                with fails_by(4.0) as caught:
                    call(files, timeout_s=4.0)
                error = caught.value
                assert isinstance(error, Unavailable)
                assert error.attempts > 1
                assert (error.status, error.model) == ("UNAVAILABLE", "tiny_pooled")
                assert error.address in [f"{way.scheme}://{proxy.address}" for proxy in ways]
                assert f"tried {error.attempts} times in 4 s" in str(error)
                assert error.__cause__ is not None
            requests = client.stats().requests
            for proxy in ways:
                proxy.listen()
            assert len(client.embed(files, timeout_s=PATIENCE_S)) == len(files)
            assert client.stats().requests - requests >= 3

    on_all_ways(run)


def test_queue_full(way, server, tmp_path):
    """At a queue that stays full, 60 callers get ServerBusy at their deadline; when it moves, each gets its answer."""

    def turned_away(client):
        start = time.monotonic()
        with fails_by(4.0) as caught:
            client.embed([b"sleep:0"], timeout_s=4.0)
        # gRPC and Triton keep the deadline by clocks of their own, and may be the first to notice it
        assert time.monotonic() - start >= 3.95
        return caught.value

    def answered(client) -> bool:
        return client.embed([b"sleep:0.02"], timeout_s=PATIENCE_S).shape == (1, 4)

    address = way.address(server)
    with ThreadPoolExecutor(64) as pool, ExitStack() as stack:
        client, patient = (stack.enter_context(way.connect(address, model="narrow")) for _ in range(2))
        client.embed([], timeout_s=PATIENCE_S)
        with held_model(patient, tmp_path):
            filling = [pool.submit(answered, patient) for _ in range(3)]
            wait_for(lambda: patient.stats().retries, "a full queue")  # and it stays so, as no one leaves it
            errors = list(pool.map(turned_away, [client] * 60))
        assert all(call.result(PATIENCE_S) for call in filling)
        for error in errors:
            assert isinstance(error, ServerBusy)
            assert error.attempts > 1
            assert (error.model, error.status) == ("narrow_pooled", "UNAVAILABLE")
            assert error.__cause__ is not None
        assert all(pool.map(answered, [client] * 64))


# Networks that fail


@pytest.mark.long
def test_a_faulty_network(server):
    """A hundred calls for each client through a bad network: typed errors in time, and nothing is left behind."""
    through_faults(server, rounds=1)  # what is made once in a process
    before_bytes = resident_bytes()
    counts = [held()]
    for _ in range(2):
        through_faults(server, rounds=1)
        counts.append(held())
    # What is left behind is left each time; a pool of threads, of gRPC or of asyncio, grows once.
    assert any(now <= then for then, now in itertools.pairwise(counts)), counts
    assert resident_bytes() - before_bytes < 50 * 2**20


def test_a_slow_network(way, server, files, embeddings):
    """Delays cost time, and nothing else."""
    with FaultyProxy(way.address(server), Fault(delay_s=0.01)) as proxy, way.connect(proxy.address) as client:
        np.testing.assert_allclose(client.embed(files, timeout_s=PATIENCE_S), embeddings, rtol=1e-6)
        assert client.stats().retries == 0


def test_an_attempt_can_be_bounded(server, files, embeddings):
    """With attempt_timeout_s a server that says nothing costs one attempt, from the first call on."""

    def run(way: Way) -> None:
        hole = Fault(request_bytes=0, ending="silence")
        options = Options(attempt_timeout_s=1.0, max_in_flight=2)
        with FaultyProxy(way.address(server), hole) as dead, FaultyProxy(way.address(server)) as proxy:
            with way.connect(dead.address, proxy.address, options=options) as client:
                np.testing.assert_allclose(client.embed(files, timeout_s=PATIENCE_S), embeddings, rtol=1e-6)
            with way.connect(dead.address, options=options) as client, fails_by(6.0) as caught:
                client.embed(files, timeout_s=6.0)
            assert isinstance(caught.value, Unavailable)
            assert caught.value.attempts > 1
            assert "no answer in 1 s (attempt_timeout_s)" in str(caught.value)

    on_all_ways(run)


def test_a_silent_server_leaves_time_for_the_others(server, files, embeddings):
    """A call asks each server what it serves for a part of its time, and passes over one that says nothing."""

    def run(way: Way) -> None:
        hole = Fault(request_bytes=0, ending="silence")
        with FaultyProxy(way.address(server), hole) as dead, way.connect(dead.address, way.address(server)) as client:
            np.testing.assert_allclose(client.embed(files, timeout_s=30.0), embeddings, rtol=1e-6)
            assert client.describe(timeout_s=30.0).name == "tiny"

    on_all_ways(run)


def test_a_server_says_goodbye(server, files):
    """A GOAWAY on connection after connection (a gateway that drains) does not paralyse the channel."""

    def run(way: Way) -> None:
        with FaultyProxy(way.address(server)) as proxy, way.connect(proxy.address) as client:
            for _ in range(8):
                assert len(client.embed(files[:1], timeout_s=PATIENCE_S)) == 1
                proxy.switch(FAULTS["grpc"]["goodbye"], drop=True)
                with fails_by(0.3) as caught:
                    client.embed(files[:1], timeout_s=0.3)
                assert isinstance(caught.value, (Unavailable, DeadlineExceeded))
                proxy.switch(HEALTHY, drop=True)

    on_all_ways(run, GRPC_WAYS)


@pytest.mark.parametrize("way", GRPC_WAYS, ids=str)
@pytest.mark.parametrize("messages", [[], [b"\xff\xff\xff"]], ids=["none", "unreadable"])
def test_a_reply_without_a_message(way, messages):
    """A status of OK without a message that can be read is a failure, at once."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method.endswith("ModelConfig"):
                return grpc.unary_unary_rpc_method_handler(lambda request, context: TINY.SerializeToString())
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(messages))

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()], options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        # One image, which is waited for directly, and more, which are not.
        for count in (1, 20):
            with way.connect(f"127.0.0.1:{port}") as client, pytest.raises(InferenceFailed) as caught:
                client.embed([b"x"] * count, timeout_s=PATIENCE_S)
            check_error(caught.value, f"grpc://127.0.0.1:{port}")
    finally:
        server.stop(0).wait(PATIENCE_S)


# Another model under the name


def test_two_calls_and_another_export():
    """What one call has learned of a server that was replaced does not let another one, begun before, go on there."""
    transport = FakeTransport(max_batch_size=1, parameters={"fingerprint": "space-1"})
    with Client("", model="m", transport=transport, options=Options(max_in_flight=1, read_ahead=1)) as client:
        stream = client.stream([b"x"] * 100)
        next(stream)
        transport.parameters["fingerprint"] = "space-2"
        assert client.describe().fingerprint == "space-2"
        sent = len(transport.requests)
        with pytest.raises(ContractMismatch, match="space-2 in place of space-1"):
            list(stream)
        assert len(transport.requests) == sent


@pytest.mark.usefixtures("subprocesses")
def test_a_server_is_replaced(tmp_path, files, embeddings):
    """Another export on the same ports: a call that began with the first ends, with no vector of the second."""
    for name, fingerprint in (("old", "space-1"), ("new", "space-2")):
        write_model(tmp_path / name, "tiny_pooled", fingerprint=fingerprint)
    code = tmp_path / "new" / "tiny_pooled" / "1" / "model.py"
    code.write_text(code.read_text().replace("return np.array([*", "return 1000 + np.array([*"))
    with ExitStack() as stack:
        old = stack.enter_context(quick_server(tmp_path / "old"))
        clients = [stack.enter_context(way.connect(way.address(old))) for way in WAYS]
        bound = [stack.enter_context(way.connect(way.address(old), expect_fingerprint="space-1")) for way in WAYS]
        for client in bound:
            np.testing.assert_allclose(client.embed(files, timeout_s=PATIENCE_S), embeddings, rtol=1e-6)
        begun = threading.Barrier(len(WAYS) + 1)
        paused = [client.stream(itertools.cycle(files), timeout_s=PATIENCE_S) for client in clients]
        firsts = [[next(stream).embedding] for stream in paused]
        with ThreadPoolExecutor(len(WAYS)) as pool:
            running = [pool.submit(until_replaced, client, files, begun) for client in clients]
            begun.wait(PATIENCE_S)
            kill(old)
            with pytest.raises(ServerDied):
                old.wait(PATIENCE_S)
            ports = [int(address.rpartition(":")[2]) for address in (old.http_address, old.grpc_address)]
            stack.enter_context(quick_server(tmp_path / "new", http_port=ports[0], grpc_port=ports[1]))
            rows = [call.result(PATIENCE_S) for call in running]
            rows += [first + rest_of(stream) for first, stream in zip(firsts, paused, strict=True)]
        for found in rows:
            np.testing.assert_allclose(found, embeddings[np.arange(len(found)) % len(files)], rtol=1e-6)
        for client in bound:
            with pytest.raises(ContractMismatch, match="space-2, and space-1 was expected"):
                client.embed(files, timeout_s=PATIENCE_S)
        for client in clients:
            np.testing.assert_allclose(client.embed(files, timeout_s=PATIENCE_S), 1000 + embeddings, rtol=1e-6)


def until_replaced(client, files, begun: threading.Barrier) -> list[np.ndarray]:
    """The embeddings of an endless stream, up to its error."""
    stream = client.stream(itertools.cycle(files), timeout_s=PATIENCE_S)
    first = [next(stream).embedding for _ in range(100)]
    begun.wait(PATIENCE_S)
    return first + rest_of(stream)


def rest_of(stream) -> list[np.ndarray]:
    """What comes before the error that says that the server has another model."""
    rows: list[np.ndarray] = []
    with pytest.raises(ContractMismatch, match="space-2 in place of space-1") as caught:
        rows.extend(result.embedding for result in stream)
    assert caught.value.attempts >= 1
    assert caught.value.model == "tiny_pooled"
    assert caught.value.address is not None
    return rows


@pytest.mark.long
@pytest.mark.usefixtures("subprocesses")
def test_a_model_is_loaded_again(tmp_path, files, embeddings):
    """Calls while the model is unloaded and loaded wait for it."""
    write_model(tmp_path, "tiny_pooled", fingerprint="space-1")
    explicit = ["--model-control-mode=explicit", "--load-model=tiny_pooled"]
    stop, begun = threading.Event(), threading.Barrier(len(WAYS) + 1)

    def load(client) -> None:
        for number in itertools.count():
            np.testing.assert_allclose(client.embed(files, timeout_s=PATIENCE_S), embeddings, rtol=1e-6)
            if number == 0:
                begun.wait(PATIENCE_S)
            if stop.is_set():
                return

    with ExitStack() as stack, ThreadPoolExecutor(len(WAYS)) as pool:
        server = stack.enter_context(quick_server(tmp_path, triton_arguments=explicit))
        control = stack.enter_context(triton.InferenceServerClient(server.grpc_address))
        clients = [stack.enter_context(way.connect(way.address(server))) for way in WAYS]
        calls = [pool.submit(load, client) for client in clients]
        try:
            begun.wait(PATIENCE_S)
            control.unload_model("tiny_pooled")
            wait_for(lambda: "unloaded" in str(control.get_model_repository_index()), "no model")
            control.load_model("tiny_pooled")
            control.load_model("tiny_pooled")  # while it is there
        finally:
            stop.set()
        for call in calls:
            call.result(PATIENCE_S)


# Bounds


@pytest.mark.usefixtures("subprocesses")
def test_memory_of_a_long_stream(servers):
    """Twenty thousand tiny inputs leave the peak where it was."""
    grown = on_all_ways(lambda way: peak_growth_bytes(servers[2], way, 20_000), GRPC_WAYS)
    assert max(grown) < 100 * 2**20
