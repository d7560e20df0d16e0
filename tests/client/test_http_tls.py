"""https://: who is trusted, and who is shown."""

import ssl
import threading

import pytest
from client.http_tools import (
    REPLY,
    connect,
    fail,
    infer,
    request,
    wait_until,
)
from client.scripted import ScriptedServer, http
from client.tls import Authority
from vitriton import TLS
from vitriton.testing import CallError, Code


@pytest.fixture(scope="module")
def authority(subprocesses, tmp_path_factory):
    """A CA with a server's and a client's certificate, and another CA."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    authority.issue("server", "DNS:localhost", "DNS:triton.test", "IP:127.0.0.1")
    authority.issue("client")
    Authority(folder, "other")
    return folder


def secure(folder, *, names=None, ask_client=False, script=None):
    """A server with TLS that notes the names that it is asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.pem")
    if names is not None:
        context.sni_callback = lambda sock, name, context: names.append(name)

    def answer(peer):
        while peer.request():
            peer.send(REPLY)

    return ScriptedServer(script or answer, context)


@pytest.mark.parametrize(
    ("host", "server_name", "asked"), [("localhost", None, "localhost"), ("127.0.0.1", "triton.test", "triton.test")]
)
def test_tls(authority, host, server_name, asked):
    """A private CA is trusted; server_name is the name that is sent and checked; the connection is kept."""
    names = []
    with secure(authority, names=names) as server:
        tls = TLS(ca_file=authority / "ca.pem", server_name=server_name)
        transport = connect(server.port, scheme="https", host=host, tls=tls)
        for _ in range(3):
            assert infer(transport, bytes(2**18)).shape == (1, 2)
        transport.close()
    assert names == [asked]


def test_tls_cancel(authority):
    """A request over TLS ends at once when it is cancelled, and at its deadline when the server drips."""
    with secure(authority, script=lambda peer: peer.request() and peer.drip(b"H")) as server:
        transport = connect(server.port, scheme="https", tls=TLS(ca_file=authority / "ca.pem"))
        assert fail(transport, timeout_s=0.5).code is Code.DEADLINE_EXCEEDED
        before = server.connections
        pending = transport.send(request(), None)
        wait_until(lambda: server.connections > before)
        pending.cancel()
        with pytest.raises(CallError, match="CANCELLED"):
            pending.result()
        before = threading.active_count()
        transport.close()
        wait_until(lambda: threading.active_count() < before)


def test_cancelled_in_the_handshake(authority):
    """A request that is cancelled ends its connection, also where the server has not yet said a word of TLS."""
    heard, left = threading.Event(), threading.Event()

    def script(peer):
        peer.socket.recv(1000)
        heard.set()
        try:
            peer.wait()
        finally:
            left.set()

    with ScriptedServer(script) as server:
        transport = connect(server.port, scheme="https", tls=TLS(ca_file=authority / "ca.pem"))
        pending = transport.send(request(), None)
        assert heard.wait(60)
        pending.cancel()
        with pytest.raises(CallError, match="CANCELLED"):
            pending.result()
        assert left.wait(60)
        transport.close()


def test_client_certificate(authority):
    """A server that asks for a certificate gets the client's, and without one there is no connection."""
    with secure(authority, ask_client=True) as server:
        tls = TLS(ca_file=authority / "ca.pem", cert_file=authority / "client.pem", key_file=authority / "client.key")
        transport = connect(server.port, scheme="https", tls=tls)
        assert infer(transport).shape == (1, 2)
        transport.close()
        transport = connect(server.port, scheme="https", tls=TLS(ca_file=authority / "ca.pem"))
        assert fail(transport).code is Code.UNAVAILABLE
        transport.close()


@pytest.mark.parametrize(
    ("ca_name", "server_name", "says"),
    [("other", None, "certificate is refused"), ("ca", "other.test", "other.test")],
)
def test_untrusted(authority, ca_name, server_name, says):
    """A certificate of an unknown CA, or for another name, is UNAVAILABLE, with the reason."""
    with secure(authority) as server:
        tls = TLS(ca_file=authority / f"{ca_name}.pem", server_name=server_name)
        transport = connect(server.port, scheme="https", tls=tls)
        error = fail(transport)
        transport.close()
    assert error.code is Code.UNAVAILABLE
    assert says in error.message


def test_tls_and_not(authority):
    """To speak TLS to a server without it, or the other way round, is UNAVAILABLE."""

    def script(peer):
        peer.socket.recv(1000)
        peer.send(http("400 Bad Request"))

    with ScriptedServer(script) as server:
        transport = connect(server.port, scheme="https")
        error = fail(transport)
        assert (error.code, "TLS:" in error.message) == (Code.UNAVAILABLE, True)
        transport.close()
    with secure(authority) as server:
        transport = connect(server.port)
        assert fail(transport).code is Code.UNAVAILABLE
        transport.close()


def test_wrong_tls_files(authority):
    """Files that do not hold what they should are found when the transport is made."""
    with pytest.raises(ValueError, match=r"TLS: ca_file .* holds no certificate"):
        connect(1, scheme="https", tls=TLS(ca_file=authority / "client.key"))
    with pytest.raises(ValueError, match=r"TLS: cert_file .* and key_file"):
        connect(1, scheme="https", tls=TLS(cert_file=authority / "client.pem", key_file=authority / "server.key"))
