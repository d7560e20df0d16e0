"""URLs, against a real HTTP server."""

import contextlib
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from client.fakes import FakeTransport
from client.scripted import ScriptedServer, http
from vitriton import Client, DeadlineExceeded, InvalidImage, Options
from vitriton._deadline import Deadline
from vitriton._images.failure import SourceError
from vitriton._images.fetch import UrlFetcher

OPTIONS = {"url_timeout_s": 30.0, "url_max_bytes": 1000, "url_max_redirects": 3}
FOREVER = Deadline.after(None)


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
        elif path == "/websocket":
            self.answer(302, b"", {"Location": "ws://127.0.0.1/a.jpg"})
        elif path == "/nowhere":
            self.answer(302, b"", {"Location": "http://host:port/"})
        elif path == "/to":
            self.answer(302, b"", {"Location": self.path.partition("?")[2]})
        elif path == "/echo":
            self.answer(200, self.path.partition("?")[2].encode())
        elif path == "/bomb":
            self.answer(200, gzip.compress(gzip.compress(bytes(10**6))), {"Content-Encoding": "gzip, gzip"})
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


@pytest.fixture
def fetch():
    """Fetches one URL with a fetcher of its own options."""
    fetchers = []

    def fetch(url, deadline=FOREVER, **options):
        fetchers.append(UrlFetcher(Options(**{**OPTIONS, **options})))
        return fetchers[-1].fetch(url, deadline)

    yield fetch
    for fetcher in fetchers:
        fetcher.close()


@pytest.mark.parametrize("path", ["/ok", "/once", "/heavy"])
def test_fetched(site, fetch, path):
    """A URL's body is what comes, also after a redirect, whose own body, here an endless one, is not read."""
    assert fetch(site + path) == b"image"


@pytest.mark.parametrize(
    ("path", "says", "code"),
    [
        ("/missing?token=secret", "the server answered 404 Not Found", "not_fetched"),
        ("/large", "over the limit of 1000 bytes (Options.url_max_bytes)", "too_large"),
        ("/endless", "over the limit of 1000 bytes (Options.url_max_bytes)", "too_large"),
        ("/bomb", "over the limit of 1000 bytes (Options.url_max_bytes)", "too_large"),
        ("/loop", "more than 3 redirects (Options.url_max_redirects)", "bad_url"),
        ("/ftp", "neither http nor https", "bad_url"),
        ("/websocket", "neither http nor https", "bad_url"),
        ("/nowhere", "cannot be fetched: ", "not_fetched"),
        ("/cut", "cannot be fetched: ", "not_fetched"),
    ],
)
def test_refused(site, fetch, path, says, code):
    """A URL that cannot be had is a SourceError that says why."""
    with pytest.raises(SourceError) as caught:
        fetch(site + path)
    assert says in str(caught.value)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_a_port_that_cannot_be(fetch):
    """It is not taken modulo 65536, as a socket would."""
    with pytest.raises(SourceError, match="its port is 99999; the last one is 65535"):
        fetch("http://127.0.0.1:99999/")


def test_a_bad_url_is_named(site):
    """In a call, a URL that cannot be had is an InvalidImage that names it, without its query."""
    with Client("unused", model="m", options=Options(**OPTIONS), transport=FakeTransport()) as client:
        with pytest.raises(InvalidImage) as caught:
            client.embed([b"first", site + "/missing?token=secret"])
        assert str(caught.value) == f"image 1 of 2 ({site}/missing): the server answered 404 Not Found"
        assert caught.value.__cause__ is not None
        assert caught.value.code == "not_fetched"


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_slow(site, fetch, path):
    """A server that says nothing, or all too slowly, is given up after url_timeout_s."""
    with pytest.raises(
        SourceError, match=r"no complete answer in 0\.2 s \(Options\.url_timeout_s; timeout of a pipeline\)"
    ) as caught:
        fetch(site + path, url_timeout_s=0.2)
    assert caught.value.code == "fetch_timeout"


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nx-a: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a="]
)
def test_dripping_headers(fetch, start):
    """Headers that come a byte at a time, for ever, cost no more than url_timeout_s."""

    def script(peer):
        peer.request()
        peer.send(start)
        peer.drip(b"H")

    with (
        ScriptedServer(script) as server,
        pytest.raises(SourceError, match=r"no complete answer in 0\.3 s"),
    ):
        fetch(f"http://127.0.0.1:{server.port}/a.jpg", url_timeout_s=0.3)


def test_slow_redirects(fetch):
    """The time is for all redirects together."""

    def script(peer):
        while peer.request():
            peer.stopping.wait(0.1)
            peer.send(http("302 Found", b"", "Location: /again"))

    with (
        ScriptedServer(script) as server,
        pytest.raises(SourceError, match=r"no complete answer in 0\.3 s"),
    ):
        fetch(f"http://127.0.0.1:{server.port}/a.jpg", url_timeout_s=0.3, url_max_redirects=100)


def test_slow_beyond_the_deadline(site):
    """When the call's own time is over first, that is the error."""
    with (
        Client("unused", model="m", options=Options(**OPTIONS), transport=FakeTransport()) as client,
        pytest.raises(DeadlineExceeded),
    ):
        client.embed([site + "/silent"], timeout_s=0.2)


def test_nobody_there(fetch):
    """A refused connection and an unknown name say so."""
    with pytest.raises(SourceError, match=r"cannot be fetched: .*Connection refused") as caught:
        fetch("http://127.0.0.1:1/a.jpg")
    assert caught.value.code == "not_fetched"
    with pytest.raises(SourceError, match=r"cannot be fetched: the host name no-such-host\.invalid"):
        fetch("http://no-such-host.invalid/a.jpg")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://", "bad_url"),
        ("http://[", "not_fetched"),  # a host name that nobody knows
        ("http://a b/", "not_fetched"),
        ("http://host:port/", "bad_url"),
        ("http://xn--/", "bad_url"),
    ],
)
def test_malformed(fetch, url, code):
    """A URL that is none cannot be fetched."""
    with pytest.raises(SourceError) as caught:
        fetch(url)
    assert caught.value.code == code


def test_cookies_are_not_kept(site):
    """What one URL sets does not go to the next."""
    fetcher = UrlFetcher(Options(**OPTIONS))
    fetcher.fetch(site + "/cookie", FOREVER)
    assert fetcher.fetch(site + "/cookie", FOREVER) == b"none"
    fetcher.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_private_addresses_are_refused(site, fetch, host):
    """With refuse_private_addresses nothing is fetched from this host or its networks, however it is written."""
    port = site.rpartition(":")[2]
    with pytest.raises(SourceError, match=r"not a public internet address.*\(Options\.refuse_private_") as caught:
        fetch(f"http://{host}:{port}/ok", refuse_private_addresses=True)
    assert caught.value.code == "address_refused"


def test_each_redirect_is_checked(site, monkeypatch):
    """A public server that redirects to a private address leads nowhere."""
    public = site.rpartition(":")[2]

    def script(peer):
        peer.request()
        peer.send(b"secret")

    # The check takes one address of this host for a public one, so that a redirect can come from it.
    monkeypatch.setattr("vitriton._net.network.is_public", lambda address: address == "127.0.0.1")
    with ScriptedServer(script, host="127.0.0.2") as private:
        fetcher = UrlFetcher(Options(refuse_private_addresses=True, **OPTIONS))
        location = f"http://127.0.0.2:{private.port}/metadata"
        with pytest.raises(SourceError, match=r"127\.0\.0\.2 resolves to 127\.0\.0\.2"):
            fetcher.fetch(f"http://127.0.0.1:{public}/to?{location}", FOREVER)
        fetcher.close()
        assert private.connections == 0


def test_proxies(fetch, monkeypatch):
    """A proxy of the environment is used, unless private addresses are refused: its connections are not seen here."""
    asked = []

    def script(peer):
        asked.append(peer.request().split(b"\r\n")[0])
        peer.send(http("200 OK", b"image"))

    with ScriptedServer(script) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "near.invalid")
        assert fetch("http://far.invalid/a.jpg") == b"image"
        for url, options in [
            ("http://near.invalid/a.jpg", {}),
            ("http://far.invalid/a.jpg", {"refuse_private_addresses": True}),
        ]:
            with pytest.raises(SourceError, match="cannot be looked up"):
                fetch(url, **options)
        monkeypatch.setenv("http_proxy", f"socks5://127.0.0.1:{proxy.port}")
        with pytest.raises(SourceError, match=r"cannot be fetched: .*socks5://"):
            fetch("http://far.invalid/a.jpg")
    assert asked == [b"GET http://far.invalid/a.jpg HTTP/1.1"]


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_named(fetch, monkeypatch, name):
    """Whoever fetches an image does not think of the environment."""
    for value in ("http://127.0.0.1:1", "http://[::1", "socks5://127.0.0.1:1"):
        monkeypatch.setenv(name, value)
        with pytest.raises(SourceError, match=f"the proxy that {name} names cannot be used: "):
            fetch("http://images.example/a.jpg")


def test_authorities_that_cannot_be_read(fetch, monkeypatch, tmp_path):
    """The variable is named, which is no fault of the image."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(SourceError, match=r"cannot be read \(.*\); correct or unset SSL_CERT_FILE"):
        fetch("http://127.0.0.1:1/a.jpg")


def test_netrc_is_not_read(fetch, monkeypatch, tmp_path):
    """A login of the user's goes to nobody who only gives a URL."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login user password word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = []

    def script(peer):
        asked.append(peer.request())
        peer.send(http("200 OK", b"image"))

    with ScriptedServer(script) as server:
        assert fetch(f"http://127.0.0.1:{server.port}/a.jpg") == b"image"
    assert b"authorization" not in asked[0].lower()


def test_threads_share_a_fetcher(site):
    """Twelve threads with one fetcher each get their own body, also where some fail."""
    fetcher = UrlFetcher(Options(**OPTIONS))

    def one(index):
        if index % 5 == 4:
            with pytest.raises(SourceError, match="404"):
                fetcher.fetch(f"{site}/missing{index}", FOREVER)
            return True
        return fetcher.fetch(f"{site}/echo?{index}", FOREVER) == str(index).encode()

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(one, range(200)))
    fetcher.close()


def test_close_ends_running_fetches(site):
    """close() from another thread ends what is being fetched at once, and nothing can be fetched after it."""
    fetcher = UrlFetcher(Options(**{**OPTIONS, "url_timeout_s": 60.0}))
    waiting = threading.Semaphore(0)

    def script(peer):
        peer.request()
        waiting.release()
        peer.wait()

    with ScriptedServer(script) as server, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(fetcher.fetch, f"http://127.0.0.1:{server.port}/{index}", FOREVER) for index in range(8)]
        for _ in calls:
            assert waiting.acquire(timeout=60)
        fetcher.close()
        fetcher.close()
        for call in calls:
            with pytest.raises(SourceError, match="closed"):
                call.result(timeout=30)
    with pytest.raises(SourceError, match="closed"):
        fetcher.fetch(site + "/ok", FOREVER)


def test_nothing_is_left_open(site):
    """Fetchers that fetched, failed and were closed leave no thread and no file descriptor behind."""

    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    def use():
        fetcher = UrlFetcher(Options(**{**OPTIONS, "url_timeout_s": 0.05}))
        with contextlib.suppress(SourceError):  # the time is short
            fetcher.fetch(site + "/ok", FOREVER)
        for path in ("/drip", "/cut", "/endless"):
            with pytest.raises(SourceError):
                fetcher.fetch(site + path, FOREVER)
        fetcher.close()

    use()
    before = count()
    for _ in range(10):
        use()
    # the server's threads and sockets, which are this process's too, go a moment later
    ended = threading.Event()
    for _ in range(6000):  # 60 s
        if count() <= before:
            break
        ended.wait(0.01)
    assert count() <= before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vitriton-lookup")]
