import pytest
from vitriton._wire.address import Address, parse_address, parse_addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:8001", "localhost", 8001),
        ("localhost", "localhost", 8001),
        ("grpc://triton.example.com:9000", "triton.example.com", 9000),
        ("GRPC://127.0.0.1:8001/", "127.0.0.1", 8001),
        ("[::1]:8001", "::1", 8001),
        (" localhost:8001 ", "localhost", 8001),
    ],
)
def test_read(text, host, port):
    """Host, port and scheme are read, and what is left out has a default."""
    assert parse_address(text) == Address("grpc", host, port)


def test_written():
    """An IPv6 address gets its brackets back."""
    assert Address("grpc", "::1", 8001).target == "[::1]:8001"
    assert str(parse_address("localhost")) == "grpc://localhost:8001"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://h", "unknown scheme ftp://; known are grpc, grpcs, http and https"),
        ("", "has no host"),
        (":8001", "has no host"),
        ("h:0", "has port 0"),
        ("h:80/v2", "is followed by a path"),
        ("h:80?a", "is followed by a query"),
        ("h:80#a", "is followed by a fragment"),
        ("me:secret@h:80", "contains a user name"),
        ("h:99999", "cannot be read"),
        ("h:abc", "cannot be read"),
        ("h:80:80", "'h:80:80' cannot be read (it has more than one port)"),
        ("fe80::1:x:8001", "cannot be read (it has more than one port)"),
        ("2001:db8::12:8001", "has an IPv6 address without brackets"),
        ("2001:db8:1:2:3:4:5:6:8001", "has an IPv6 address without brackets"),
        ("h/8001", "address 'h/8001' is followed by a path"),
        ("my host:1", "has a space"),
    ],
)
def test_refused(text, says):
    """An address that cannot be used is refused with what to write instead."""
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "port", "secure"),
    [("grpc://h", 8001, False), ("grpcs://h", 8001, True), ("http://h", 8000, False), ("https://h", 8000, True)],
)
def test_schemes(text, port, secure):
    """Each scheme has the port of Triton's endpoint."""
    address = parse_address(text)
    assert (address.port, address.is_secure) == (port, secure)


@pytest.mark.parametrize("given", ["http://a:1,b:2", ["http://a:1", "http://b:2"], ("http://a:1", "b:2")])
def test_several(given):
    """Several addresses come in a sequence or with commas between them; the scheme of the first goes for all."""
    assert [str(address) for address in parse_addresses(given)] == ["http://a:1", "http://b:2"]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ([], ValueError, "address is empty"),
        ("", ValueError, "address is empty"),
        ("a:1,", ValueError, "entry 2 is empty"),
        ("a:1,,b:1", ValueError, "has 3 entries, and entry 2 is empty"),
        (["a:1", "http://b:1"], ValueError, "different schemes"),
        ("a:1,a:1", ValueError, "one of them is given twice"),
        (None, TypeError, "address has the type NoneType"),
        (8001, TypeError, "address has the type int"),
    ],
)
def test_several_refused(given, error, says):
    """What is no list of addresses is refused."""
    with pytest.raises(error) as caught:
        parse_addresses(given)
    assert says in str(caught.value)
