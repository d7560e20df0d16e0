"""URLs, against a real HTTP server."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from client.fakes import FakeTransport
from vitriton import Client, DeadlineExceeded, InvalidImage, Options

OPTIONS = Options(url_timeout_s=5.0, url_max_bytes=1000, url_max_redirects=3)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/ok":
            self.answer(200, b"image")
        elif path == "/cookie":
            self.answer(200, (self.headers.get("Cookie") or "none").encode(), {"Set-Cookie": "id=1"})
        elif path == "/once":
            self.answer(302, b"", {"Location": "/ok"})
        elif path == "/heavy":
            self.endless(b"x" * 500, status=302, headers={"Location": "/ok"})
        elif path == "/loop":
            self.answer(302, b"", {"Location": "/loop"})
        elif path == "/ftp":
            self.answer(302, b"", {"Location": "ftp://127.0.0.1/a.jpg"})
        elif path == "/large":
            self.answer(200, bytes(1001))
        elif path == "/endless":
            self.endless(b"x" * 500)
        elif path == "/silent":
            self.server.stopping.wait(30)
        elif path == "/drip":
            self.endless(b"x", pause_s=0.02)
        elif path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "500")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        else:
            self.answer(404, b"")

    def answer(self, status, body, headers=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def endless(self, piece, pause_s=0.0, status=200, headers=None):
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            while not self.server.stopping.wait(pause_s):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        except OSError:  # the client has gone, as it should
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stopping = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopping.set()
    server.shutdown()
    thread.join()
    server.server_close()


def embed(url, options=OPTIONS, **arguments):
    transport = FakeTransport()
    with Client("unused", model="m", options=options, transport=transport) as client:
        client.embed([b"first", url], **arguments)
    return transport.requests[0].images[1]


@pytest.mark.parametrize("path", ["/ok", "/once", "/heavy"])
def test_fetched(site, path):
    """A URL's body is what travels, also after a redirect, whose own body, here an endless one, is not read."""
    assert embed(site + path) == b"image"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/missing?token=secret", "/missing): the server answered 404 Not Found"),
        ("/large", "over the limit of 1000 bytes (url_max_bytes)"),
        ("/endless", "over the limit of 1000 bytes (url_max_bytes)"),
        ("/loop", "more than 3 redirects (url_max_redirects)"),
        ("/ftp", "neither http nor https"),
        ("/cut", "cannot be fetched: RemoteProtocolError"),
    ],
)
def test_refused(site, path, says):
    """A URL that cannot be had is an InvalidImage that names it, without its query."""
    with pytest.raises(InvalidImage) as caught:
        embed(site + path)
    assert str(caught.value).startswith(f"image 1 of 2 ({site}{path.partition('?')[0]}): ")
    assert says in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_slow(site, path):
    """A server that says nothing, or all too slowly, is given up after url_timeout_s."""
    with pytest.raises(InvalidImage, match=r"no complete answer in 0\.2 s \(url_timeout_s\)"):
        embed(site + path, Options(url_timeout_s=0.2))


def test_slow_beyond_the_deadline(site):
    """When the call's own time is over first, that is the error."""
    with pytest.raises(DeadlineExceeded):
        embed(site + "/silent", timeout_s=0.2)


def test_nobody_there():
    """A refused connection is an InvalidImage: the server that embeds is well."""
    with pytest.raises(InvalidImage, match="cannot be fetched: ConnectError"):
        embed("http://127.0.0.1:1/a.jpg")


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a b/", "http://host:port/"])
def test_malformed(url):
    """A URL that is none is an InvalidImage."""
    with pytest.raises(InvalidImage, match="image 1 of 2"):
        embed(url)


def test_cookies_are_not_kept(site):
    """What one URL sets does not go to the next."""
    transport = FakeTransport()
    with Client("unused", model="m", options=OPTIONS, transport=transport) as client:
        client.embed([site + "/cookie", site + "/cookie"])
    assert transport.requests[0].images[1] == b"none"
