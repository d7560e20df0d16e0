"""A client of a name behind which servers come and go, as pods behind a headless Service."""

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from support import exports
from vitriton import Client
from vitriton._wire.address import Address
from vitriton_server import TritonServer

NAME = "triton.pods.test"
MODEL = "tiny-deit"
_AGE_MS = 3000  # the chart has minutes; the rest is as there
_WITHIN_S = 30.0


@pytest.fixture
def repository(tmp_path_factory, small_models) -> Path:
    """A small model."""
    return exports.export_all({MODEL: small_models[MODEL]}, tmp_path_factory.mktemp("pods") / "repository")


class Names:
    """A DNS server on loopback: every name has the addresses that it was last given."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                query, caller = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(query), caller)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(0, 12) + 5  # of the question: the name, its type and its class
        (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
        found = self.addresses if kind == 1 else []  # A; there is no AAAA
        # for each, a pointer to the name, the type A, the class IN, a second to keep it, and 4 bytes
        records = [struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(each) for each in found]
        return query[:2] + struct.pack("!HHHHH", 0x8580, 1, len(found), 0, 0) + query[12:end] + b"".join(records)


@pytest.fixture
def names(monkeypatch) -> Iterator[Names]:
    """The DNS server that clients ask, in place of this machine's own."""
    server = Names()

    def target(address: Address) -> str:
        return f"dns://127.0.0.1:{server.port}/{address.target}"

    monkeypatch.setattr("vitriton._wire.grpc.channel_target", target)
    yield server
    server.close()


def _free_port(addresses: list[str]) -> int:
    """A port that is free on all of these addresses, since the pods of a Service have one port."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.socket())
        first.bind((addresses[0], 0))
        port = int(first.getsockname()[1])
        for address in addresses[1:]:
            stack.enter_context(socket.socket()).bind((address, port))
        return port


class Load:
    """Callers that embed without a pause, and remember what failed."""

    def __init__(self, client: Client, photo: bytes, callers: int = 6) -> None:
        self.failed: list[Exception] = []
        self._client, self._photo = client, photo
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._end.is_set():
            try:
                self._client.embed(self._photo)
            except Exception as exc:
                self.failed.append(exc)


def _answered(servers: dict[str, TritonServer]) -> Counter[str]:
    """The images that each server has embedded so far."""
    counts: Counter[str] = Counter()
    for address, server in servers.items():
        with triton.InferenceServerClient(server.grpc_address) as client:
            (model,) = client.get_inference_statistics(f"{MODEL}_pooled").model_stats
            counts[address] = model.inference_count
    return counts


def _until_even(servers: dict[str, TritonServer]) -> float:
    """Waits until each server gets at least half of its share within two seconds; returns how long that took."""
    began = time.monotonic()
    while time.monotonic() < began + _WITHIN_S:
        before = _answered(servers)
        time.sleep(2.0)
        recent = _answered(servers)
        recent.subtract(before)
        if min(recent.values()) >= recent.total() / len(servers) / 2 > 0:
            return time.monotonic() - began
    raise AssertionError(f"after {_WITHIN_S} s, the servers answered {dict(recent)} requests in 2 s")


@pytest.mark.long
def test_servers_behind_a_name_come_and_go_without_a_failed_request(subprocesses, repository, names, bad):
    """New addresses of a name get their share of the load within 30 s, old ones none, and every request is answered."""
    addresses = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
    port = _free_port(addresses)
    arguments = (f"--grpc-max-connection-age={_AGE_MS}", "--grpc-max-connection-age-grace=30000")
    with contextlib.ExitStack() as stack:
        pods = {
            address: stack.enter_context(
                TritonServer(repository, host=address, grpc_port=port, triton_arguments=arguments)
            )
            for address in addresses
        }
        first, second, third = addresses
        names.addresses = [first, second]
        client = stack.enter_context(Client(f"{NAME}:{port}", model=MODEL, timeout_s=60))
        client.wait_ready()
        with Load(client, bad.good) as load:
            _until_even({address: pods[address] for address in (first, second)})
            assert _answered({third: pods[third]})[third] < 10  # but for canaries, which a silent server gets

            names.addresses = addresses  # a scale-up
            _until_even(pods)

            names.addresses = [second, third]  # and a scale-down: the pod ends when its address has gone
            remaining = {address: pods[address] for address in (second, third)}
            time.sleep(_AGE_MS / 1000)
            pods[first].stop()
            _until_even(remaining)
        assert load.failed == []
