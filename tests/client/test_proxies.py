"""Proxies that the environment names: Triton is reached without them, whatever the protocol."""

import contextlib
import socket
import threading

import pytest
from client.both import KINDS, make_client
from client.scripted import ScriptedServer
from vitriton import Options
from vitriton._wire.address import Address
from vitriton._wire.channel import channel_options
from vitriton._wire.connection import ConnectionSettings

NAMES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
ADDRESSES = "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No test depends on what this process was started with."""
    for name in (*NAMES, "no_proxy", "no_grpc_proxy", "GRPC_ADDRESS_HTTP_PROXY", ADDRESSES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy():
    """A proxy that makes the tunnels that CONNECT asks it for; `asked` has the first line of each request."""
    asked = []

    def script(peer):
        line = peer.request().partition(b"\r\n")[0].decode()
        asked.append(line)
        host, _, port = line.split()[1].rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pass_on, args=(server, peer.socket))
            back.start()
            pass_on(peer.socket, server)
            back.join()

    with ScriptedServer(script) as running:
        running.asked = asked
        running.url = f"http://127.0.0.1:{running.port}"
        yield running


def pass_on(source, target):
    with contextlib.suppress(OSError):  # the other side has gone
        while data := source.recv(2**16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def embed(kind, address, files, **options):
    with make_client(kind)(address, model="tiny", options=Options(**options)) as client:
        return client.embed(files[:2], timeout_s=60).shape


@pytest.mark.usefixtures("subprocesses")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, *map(str.upper, NAMES)])
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_triton_is_reached_without_a_proxy(kind, name, scheme, request, files, proxy, monkeypatch):
    """Proxies are for what is far away. A container gets their names from outside, and Triton stands beside it."""
    address = request.getfixturevalue("address" if scheme == "grpc" else "http_address")
    monkeypatch.setenv(name, proxy.url)
    assert embed(kind, f"{scheme}://{address}", files) == (2, 4)
    assert proxy.asked == []


@pytest.mark.parametrize("kind", KINDS)
def test_grpcs_own_proxy_for_addresses(kind, address, files, proxy, monkeypatch):
    """This one gRPC asks for another setting than for all others."""
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", f"127.0.0.1:{proxy.port}")
    monkeypatch.setenv(ADDRESSES, "127.0.0.1,::1")
    assert embed(kind, address, files) == (2, 4)
    assert proxy.asked == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["environment", "option"])
def test_a_proxy_that_is_asked_for(kind, how, address, files, proxy, monkeypatch):
    """The user's channel options bring the environment's proxy back, or name one."""
    if how == "environment":
        monkeypatch.setenv("http_proxy", proxy.url)
        options = {"grpc.enable_http_proxy": 1}
    else:
        options = {"grpc.http_proxy": proxy.url}
    assert embed(kind, address, files, grpc_options=options) == (2, 4)
    assert set(proxy.asked) == {f"CONNECT {address} HTTP/1.1"}


def test_a_named_proxy_can_be_switched_off():
    """What the user says about both options is what counts."""
    given = {"grpc.http_proxy": "http://127.0.0.1:1", "grpc.enable_http_proxy": 0}
    options = channel_options(Address("grpc", "127.0.0.1", 8001), ConnectionSettings(grpc_options=given))
    assert options["grpc.enable_http_proxy"] == 0
