"""The tests of failures in their full length."""

import itertools
import logging
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from client.chaos import (
    PATIENCE_S,
    RESTARTS,
    WAYS,
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
from client.conftest import expected, write_model
from client.faulty_proxy import FaultyProxy
from vitriton import Unavailable
from vitriton_server import TritonServer

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("subprocesses")]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_thousand_calls_through_a_faulty_network(way, server, caplog):
    """They leave no thread, no file descriptor and no memory behind."""
    caplog.set_level(logging.CRITICAL, logger="grpc")  # pytest would keep its records, and with them the frames
    through_faults(server, rounds=3, ways=[way])
    before, sizes, calls = held(), [resident_bytes()], 0
    for _ in range(2):
        calls += through_faults(server, rounds=16, ways=[way])
        sizes.append(resident_bytes())
    after = held()
    grown = min(later - earlier for earlier, later in itertools.pairwise(sizes))  # a leak is in both halves
    print(f"{way}: {calls} calls, {before} before, {after} after, {grown / 2**20:.1f} MiB more in 500")
    assert calls >= 1000
    assert after <= before
    assert grown < 10 * 2**20


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_memory_of_a_hundred_thousand_images(way, tmp_path):
    """A hundred thousand tiny inputs leave the peak where it was."""
    write_noop(tmp_path)
    with quick_server(tmp_path) as server:
        grown = peak_growth_bytes(server, way, 100_000)
    print(f"{way}: {grown / 2**20:.1f} MiB")
    assert grown < 100 * 2**20


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_stream_survives_three_kills(way, tmp_path):
    """Killed at random points, in the middle of requests, each image comes once, in order, with its own value."""
    write_model(tmp_path, "tiny_pooled", fingerprint="space-1")
    shown = pictures(500)
    kills = sorted(random.Random(str(way)).sample(range(50, 400), 3))
    results = []
    with quick_server(tmp_path, watch=RESTARTS) as server, way.connect(way.address(server)) as client:
        for result in client.stream(map(encoded, shown), timeout_s=PATIENCE_S):
            results.append(result)
            if kills and len(results) >= kills[0] and server.is_alive():
                kills.pop(0)
                kill(server)
    assert not kills
    assert [result.index for result in results] == list(range(500))
    np.testing.assert_allclose([result.embedding for result in results], expected(shown), rtol=1e-6)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_all_down_for_a_while(way, server, files):
    """Unavailable at the deadline, within a tenth of it."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(FaultyProxy(way.address(server))) for _ in range(3)]
        client = stack.enter_context(way.connect(*(proxy.address for proxy in proxies)))
        client.embed(files, timeout_s=PATIENCE_S)
        for proxy in proxies:
            proxy.refuse()
        with fails_by(30.0) as caught:
            client.embed(files, timeout_s=30.0)
        assert isinstance(caught.value, Unavailable)
        assert caught.value.attempts > 10


def test_a_fleet_whose_servers_die_in_turns(tmp_path):
    """Each of three is killed, one after the other, under load from all clients: no call fails."""
    write_model(tmp_path, "tiny_pooled", fingerprint="space-1")
    shown = pictures(24)
    images, rows = list(map(encoded, shown)), expected(shown)
    stop = threading.Event()

    def load(client) -> int:
        for number in itertools.count(1):
            np.testing.assert_allclose(client.embed(images, timeout_s=PATIENCE_S), rows, rtol=1e-6)
            if stop.is_set():
                return number
        raise AssertionError

    with ExitStack() as stack, ThreadPoolExecutor(3 * len(WAYS)) as pool:
        servers = [stack.enter_context(quick_server(tmp_path, watch=RESTARTS)) for _ in range(3)]
        clients = [stack.enter_context(way.connect(*map(way.address, servers))) for way in WAYS]
        calls = [pool.submit(load, client) for client in clients for _ in range(3)]
        try:
            for server in servers:
                first = server.pid
                kill(server)
                wait_for(lambda server=server, first=first: server.pid != first, "a restart")
                on_all_ways(lambda way, server=server: ready(way, server))
        finally:
            stop.set()
        print(f"{sum(call.result(PATIENCE_S) for call in calls)} calls")


def ready(way, server: TritonServer) -> None:
    """Returns when a server answers."""
    with way.connect(way.address(server)) as client:
        client.wait_ready(timeout_s=PATIENCE_S)
