"""What nginx itself refuses: in JSON as Triton's errors are, whatever cannot be read of the request."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from compose.project import Project

INFER = "POST /v2/models/m/infer HTTP/1.1"
CHUNK = b"5\r\nhello\r\n0\r\n\r\n"
HOST = "Host: gateway\r\n"

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(front: Project, gateway_files: Path) -> Ask:
    """Sends a request to the letter; the status and the error's text of the answer."""
    token = (gateway_files / "token").read_text()
    context = ssl.create_default_context(cafile=str(gateway_files / "ca.pem"))

    def send(line: str, headers: str = HOST, body: bytes = b"", *, tls: bool = True) -> tuple[int, str]:
        host, port = front.address("gateway").split(":")
        plain = socket.create_connection((host, int(port)), timeout=30)
        with context.wrap_socket(plain, server_hostname=host) if tls else plain as connection:
            text = f"{line}\r\n{headers}Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
            connection.sendall(text.encode("latin-1") + body)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        head, _, content = answer.decode().partition("\r\n\r\n")
        assert "application/json" in head, answer
        return int(head.split()[1]), str(json.loads(content)["error"])

    return send


@pytest.mark.parametrize(
    ("request_parts", "status"),
    [
        (("garbage", ""), 400),
        (("GET v2 HTTP/1.1",), 400),
        (("get /v2 HTTP/1.1",), 400),
        (("GET /../v2 HTTP/1.1",), 400),
        (("GET /%00 HTTP/1.1",), 400),
        (("GET /v2 HTTP/1.1", ""), 400),
        (("GET /v2 HTTP/1.1", HOST + HOST), 400),
        (("GET /v2 HTTP/1.1", HOST + "\x00: x\r\n"), 400),
        (("GET /v2 HTTP/1.1", HOST + f"X: {'x' * 20_000}\r\n"), 400),
        (("GET /v2 HTTP/1.1", HOST + f"X: {'x' * 8000}\r\n" * 12), 400),
        ((f"GET /{'x' * 20_000} HTTP/1.1",), 414),
        (("TRACE /v2 HTTP/1.1",), 405),
        (("CONNECT gateway:1 HTTP/1.1",), 400),
        (("GET /v2 HTTP/3.0",), 505),
        ((INFER, HOST + "Content-Length: x\r\n", CHUNK), 400),
        ((INFER, HOST + "Content-Length: 5\r\nContent-Length: 6\r\n", CHUNK), 400),
        ((INFER, HOST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNK), 400),
        ((INFER, HOST + "Transfer-Encoding: gzip, chunked\r\n", CHUNK), 501),
        ((INFER, HOST + "Transfer-Encoding: chunked\r\n", b"no number\r\n"), 400),
        ((INFER, HOST + "Content-Length: 99999999999\r\n"), 413),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_error_is_json(ask: Ask, request_parts: tuple[str, ...], status: int) -> None:
    """With the status that nginx has for it."""
    found, text = ask(*request_parts)
    assert found == status
    assert "gateway" in text


def test_http_without_tls(ask: Ask) -> None:
    """Who forgets TLS is told so in JSON too."""
    assert ask("GET /v2 HTTP/1.1", tls=False) == (
        400,
        "the gateway takes only connections with TLS; begin the address with https:// or grpcs://",
    )


def test_an_error_keeps_its_place_in_the_log(ask: Ask, front: Project) -> None:
    """Path, method and client of what is refused, where they could be read."""
    ask("TRACE /v2/models/traced HTTP/1.1")
    line = next(line for line in front.logs("gateway").splitlines() if "/v2/models/traced" in line)
    assert {"method": "TRACE", "status": 405, "client": "test"}.items() <= json.loads(line).items()
