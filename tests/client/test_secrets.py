"""What must not be told: tokens, headers, and what URLs hold beside the place."""

import logging
import pickle
import socket
import traceback

import pytest
from client.both import KINDS, make_client
from client.scripted import ScriptedServer, http
from vitriton import AccessDenied, Client, Options, Unavailable, VitritonError
from vitriton._wire.connection import ConnectionSettings
from vitriton.testing import FakeTransport

SECRET = "hunter2"
SCHEMES = ("grpc", "http")


@pytest.fixture
def nobody():
    """An address that nobody answers at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def told(error):
    """All that an error shows, also to those who print where it came from, or send it to another process."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error)) + repr(pickle.dumps(error))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_headers(kind, scheme, nobody, caplog):
    """They are in no error, no repr and no line of any logger, however much is logged."""
    caplog.set_level(logging.DEBUG)
    address = f"{scheme}://{nobody}"
    with make_client(kind)(address, model="m", token=SECRET, headers={"x-api-key": SECRET}) as client:
        with pytest.raises(Unavailable) as failed:
            client.embed([b"1"], timeout_s=2)
        assert SECRET not in repr(client)
    assert "; again in " in caplog.text  # retries were logged
    assert SECRET not in caplog.text
    assert SECRET not in told(failed.value)


def test_settings_have_no_secrets_in_their_repr():
    """What reports errors often shows the variables of each frame too."""
    connection = ConnectionSettings(token=SECRET, headers={"x-api-key": SECRET})
    assert SECRET not in repr(connection)
    with Client("", model="m", token=SECRET, headers={"x-api-key": SECRET}, transport=FakeTransport()) as client:
        assert SECRET not in repr(client._core.settings)


@pytest.mark.parametrize("token", [f"{SECRET}\n", f"{SECRET}é"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_token_that_cannot_be_sent(scheme, nobody, token):
    """The error says so, and not what the token is."""
    with pytest.raises(ValueError, match="token must be printable ASCII text") as refused:
        Client(f"{scheme}://{nobody}", model="m", token=token)
    assert SECRET not in told(refused.value)
    with Client(f"{scheme}://{nobody}", model="m", token=lambda: token) as client:
        with pytest.raises(AccessDenied, match=r"nothing was sent .* check the token") as failed:
            client.embed([b"1"])
        assert SECRET not in told(failed.value)


def test_headers_that_cannot_be_sent():
    """The error names the header, and not its value."""
    with pytest.raises(ValueError, match="the value of 'x-api-key'") as failed:
        Client("localhost", model="m", headers={"x-api-key": f"{SECRET}\n"})
    assert SECRET not in told(failed.value)


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{SECRET}@triton:8000",
        f"{SECRET}@triton",
        f"http://triton:8000/?token={SECRET}",
        f"http://triton:8000#{SECRET}",
        f"http://user:{SECRET}@triton:8000/?next=http://x",
        f"http://user:{SECRET}@triton:port",
        f"ftp://user:{SECRET}@triton",
    ],
)
def test_addresses_with_secrets(address):
    """They are refused, and the error shows the scheme, the host and the port only."""
    with pytest.raises(ValueError, match="triton") as failed:
        Client(address, model="m")
    assert SECRET not in str(failed.value)


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_urls_of_images(status, caplog):
    """Neither the password nor the query of an image's URL is in its result, an error, or a log at INFO."""
    caplog.set_level(logging.INFO)

    def answer(peer):
        peer.request()
        peer.send(http(status, b"image"))

    with ScriptedServer(answer) as server, Client("", model="m", transport=FakeTransport()) as client:
        url = f"http://user:{SECRET}@127.0.0.1:{server.port}/cat.jpg?signature={SECRET}#{SECRET}"
        (result,) = client.stream([url])
        assert result.source == f"http://127.0.0.1:{server.port}/cat.jpg"
        assert SECRET not in repr(result)
        assert result.error is None if status == "200 OK" else SECRET not in told(result.error)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host:port/?q={SECRET}",
        f"http://user:{SECRET}@/?q={SECRET}",
        f"HTTP://user:{SECRET}@host\x01/?q={SECRET}",
        f"s3://user:{SECRET}@bucket/key?signature={SECRET}",
        f"data:image/png;base64,{SECRET}!",
        f"data:{SECRET}",
    ],
)
def test_urls_that_cannot_be_used(url):
    """Their errors show as little."""
    with Client("", model="m", transport=FakeTransport()) as client:
        (result,) = client.stream([url])
    assert isinstance(result.error, VitritonError)
    assert SECRET not in told(result.error)
    assert SECRET not in result.source


def test_one_warning_for_a_server_that_is_down(nobody, caplog):
    """A program that sets up no logging has one line on its standard error, and none with each attempt."""
    caplog.set_level(logging.DEBUG)
    options = Options(initial_backoff_s=0.001, max_backoff_s=0.01, max_attempts=3)
    with Client(nobody, model="m", options=options) as client, pytest.raises(Unavailable):
        client.embed([b"1"], timeout_s=30)
    records = [record for record in caplog.records if record.name.startswith("vitriton")]
    assert records
    assert {record.levelname for record in records} == {"WARNING", "DEBUG"}
    assert [record.levelname for record in records].count("WARNING") == 1
    assert {record.name for record in records} == {"vitriton"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("token", [None, "", 5])
def test_a_token_function_that_returns_none(scheme, nobody, token):
    """It is an error of this client's, before anything is sent."""
    client = Client(f"{scheme}://{nobody}", model="m", token=lambda: token)
    with client, pytest.raises(AccessDenied, match=r"nothing was sent .* the token function failed"):
        client.embed([b"1"])


@pytest.mark.parametrize(("token", "error"), [("", ValueError), (5, TypeError), (b"abc", TypeError)])
def test_what_is_no_token(token, error):
    """It is refused where the client is made."""
    with pytest.raises(error, match="token"):
        Client("localhost", model="m", token=token)
