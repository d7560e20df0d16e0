"""Sockets with one deadline for everything, against real ones."""

import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from client.scripted import ScriptedServer
from vitriton._deadline import Deadline
from vitriton._net.network import Network, is_public
from vitriton._net.operation import (
    AddressRefused,
    ConnectFailed,
    ConnectionLost,
    Operation,
    OperationCancelled,
    OutOfTime,
)

LONG_S = 60.0


def operation(timeout_s=LONG_S):
    return Operation(Deadline.after(timeout_s))


def leads_to(*addresses):
    """A name server that knows one name, and takes IP addresses as the real one does."""

    def getaddrinfo(host, port, **options):
        if options.get("flags"):
            return socket.getaddrinfo(host, port, **options)
        return [info for address in addresses for info in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)]

    return getaddrinfo


def read_on(stream):
    """Reads for as long as something comes."""
    while stream.read(90):
        pass


@pytest.fixture
def silent():
    """A server that takes connections, and what is written, and says nothing."""
    with ScriptedServer(lambda peer: peer.wait()) as server:
        yield server


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("2002:808:808::1", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("192.168.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("::127.0.0.1", False),
        ("fe80::1", False),
        ("fe80::1%1", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("2001:db8::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::1", False),
        ("2002:a00:1::1", False),
        ("2002:7f00:1::1", False),
    ],
)
def test_public_addresses(address, public):
    """Only what the public internet routes is public, however an IPv4 address is written."""
    assert is_public(address) is public


def test_private_addresses_are_refused(silent):
    """A name that leads to private addresses alone is refused, with the address; the connection is never made."""
    network = Network(refuse_private=True, getaddrinfo=leads_to("127.0.0.1", "::1"))
    with (
        operation(),
        pytest.raises(AddressRefused, match=r"photos\.example resolves to 127\.0\.0\.1, which is not a public"),
    ):
        network.connect("photos.example", silent.port)
    with operation(), pytest.raises(AddressRefused):
        network.connect("127.0.0.1", silent.port)
    with operation(), pytest.raises(AddressRefused):  # another way to write it
        network.connect("2130706433", silent.port)
    assert silent.connections == 0


def test_the_name_is_looked_up_once(silent):
    """Between the check of the address and the connection nobody asks the name server again."""
    asked = []

    def getaddrinfo(host, port, **options):
        asked.append(host)
        return leads_to("127.0.0.1")(host, port, **options)

    with operation():
        Network(getaddrinfo=getaddrinfo).connect("photos.example", silent.port).close()
    assert len(asked) == 2  # as a number, as a name


def test_all_addresses_are_tried(silent):
    """A host with a dead address is reached at its other one."""
    network = Network(getaddrinfo=leads_to("127.0.0.2", "127.0.0.1"))
    with operation():
        network.connect("triton.example", silent.port).close()


def test_addresses_take_turns():
    """With rotate, each connection begins with the next address."""
    asked = []

    def attempts(rotate):
        network = Network(rotate=rotate, getaddrinfo=leads_to("127.0.0.2", "127.0.0.3"))
        for _ in range(3):
            with operation(), pytest.raises(ConnectFailed) as caught:
                network.connect("triton.example", port)
            asked.append(str(caught.value)[:9])

    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody listens at the other addresses
        port = listener.getsockname()[1]
        attempts(rotate=True)
        attempts(rotate=False)
    assert asked == ["127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2"]


def test_nobody_listens():
    """A refused connection says where."""
    with operation(), pytest.raises(ConnectFailed, match=r"127\.0\.0\.1 port 1: Connection refused"):
        Network().connect("127.0.0.1", 1)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64, "a..b"])
def test_unknown_name(host):
    """A name that is not known, or cannot be one, says so."""
    with operation(), pytest.raises(ConnectFailed, match="cannot be looked up"):
        Network().connect(host, 1)


def test_a_slow_name_server():
    """A name server that does not answer costs no more than the operation's time, and one thread for all who ask."""
    asked, answer = [], threading.Event()

    def getaddrinfo(host, port, **options):
        if options.get("flags"):
            raise socket.gaierror
        asked.append(host)
        answer.wait(LONG_S)
        return []

    network = Network(getaddrinfo=getaddrinfo)
    for _ in range(3):
        with operation(0.5), pytest.raises(OutOfTime, match="look-up"):
            network.connect("triton.example", 1)
    running = operation()

    def connect():
        with running:
            network.connect("triton.example", 1)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(connect)
        running.cancel()
        with pytest.raises(OperationCancelled):
            call.result(LONG_S)
    answer.set()
    assert asked == ["triton.example"]


def test_reading_has_the_operations_time(silent):
    """Each read gets what is left of the operation's time, and none when it is over."""
    started = time.monotonic()
    with operation(1.0):
        stream = Network().connect("127.0.0.1", silent.port)
        with pytest.raises(OutOfTime):
            stream.read(1)
    assert time.monotonic() - started >= 0.99
    with operation(0.0), pytest.raises(OutOfTime):
        stream.read(1)
    stream.close()


def test_dripping_does_not_extend_it():
    """A server that sends a byte now and then is given up when the operation's time is over."""
    with ScriptedServer(lambda peer: peer.drip(b"x")) as server, operation(1.0):
        stream = Network().connect("127.0.0.1", server.port)
        with pytest.raises(OutOfTime):
            read_on(stream)
        stream.close()


def test_writing_has_the_operations_time():
    """A server that does not read holds no writer longer than the operation's time."""
    with ScriptedServer(lambda peer: peer.stopping.wait(LONG_S)) as server, operation(1.0):
        stream = Network().connect("127.0.0.1", server.port)
        with pytest.raises(OutOfTime):
            stream.sendall(bytes(64 * 2**20))
        stream.close()


@pytest.mark.parametrize("work", ["read", "sendall", "start_tls"])
def test_cancel_ends_a_blocked_call(work):
    """A call that waits raises as soon as another thread cancels its operation, and so does the next one."""
    running = operation()
    begun = threading.Event()

    def block(port):
        with running:
            stream = Network().connect("127.0.0.1", port)
            begun.set()
            calls = {
                "read": lambda: stream.read(1),
                "sendall": lambda: stream.sendall(bytes(64 * 2**20)),
                "start_tls": lambda: stream.start_tls(ssl.create_default_context(), "localhost"),
            }
            try:
                with pytest.raises(OperationCancelled):
                    calls[work]()
                with pytest.raises(OperationCancelled):
                    stream.read(1)
            finally:
                stream.close()

    with ScriptedServer(lambda peer: peer.stopping.wait(LONG_S)) as server, ThreadPoolExecutor(1) as pool:
        call = pool.submit(block, server.port)
        assert begun.wait(LONG_S)
        running.cancel()
        call.result(LONG_S)


def test_cancel_ends_a_connect():
    """A connection that does not come about is given up at once too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]  # the queue of the listener is full: the next one waits
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        running = operation()

        def connect():
            with running:
                Network().connect("127.0.0.1", port)

        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(connect)
            assert wait([call], timeout=0.2).not_done
            running.cancel()
            with pytest.raises(OperationCancelled):
                call.result(LONG_S)
        for filler in fillers:
            filler.close()


def test_a_cancelled_operation_harms_no_other():
    """A connection that has passed on to another operation is no longer the first one's to end."""
    with ScriptedServer(lambda peer: peer.send(b"ab")) as server:
        with operation() as first:
            stream = Network().connect("127.0.0.1", server.port)
            assert stream.read(1) == b"a"
        first.cancel()
        with operation():
            assert stream.read(1) == b"b"
            stream.close()


def test_too_much():
    """An operation that has received more than it wants ends, whatever a parser makes of the bytes."""
    with ScriptedServer(lambda peer: peer.send(bytes(1000))) as server, operation() as running:
        running.max_received = 100
        stream = Network().connect("127.0.0.1", server.port)
        with pytest.raises(ConnectionLost, match="more than 100 bytes"):
            read_on(stream)
        stream.close()


def test_the_end_of_a_connection_is_seen(silent):
    """An idle connection is readable when, and only when, the server has ended it."""
    with operation():
        stream = Network().connect("127.0.0.1", silent.port)
        assert not stream.is_readable
    with ScriptedServer(lambda peer: None) as server, operation():
        ended = Network().connect("127.0.0.1", server.port)
        assert ended.read(1) == b""
        assert ended.is_readable
        ended.close()
    stream.close()
    assert stream.is_readable
