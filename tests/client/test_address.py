import pytest
from vitriton._address import Address, parse_address


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
        ("grpcs://h:8001", "grpcs:// is not yet supported; use grpc://"),
        ("http://h:8000", "http:// is not yet supported; use grpc://"),
        ("https://h", "https:// is not yet supported"),
        ("a:8001,b:8001", "several addresses are not yet supported"),
        ("ftp://h", "unknown scheme ftp://"),
        ("", "not a host and a port"),
        (":8001", "not a host and a port"),
        ("h:0", "not a host and a port"),
        ("h:80/v2", "not a host and a port"),
        ("me:secret@h:80", "not a host and a port"),
        ("h:99999", "cannot be read"),
        ("h:abc", "cannot be read"),
        ("my host:1", "has a space"),
    ],
)
def test_refused(text, says):
    """An address that cannot be used is refused with what to write instead."""
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert says in str(caught.value)
