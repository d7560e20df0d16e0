"""Cookies: of one fetch and its redirects, under the rules of browsers, and of nothing else."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from client.scripted import ScriptedServer, http
from vitriton import Options
from vitriton._deadline import Deadline
from vitriton._images.failure import SourceError
from vitriton._images.fetch import UrlFetcher

FOREVER = Deadline.after(None)


def header(request, name):
    """The value of a header of a request, or None."""
    for line in request.decode().split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None


def redirect(location, *cookies):
    return http("302 Found", b"", f"Location: {location}", *(f"Set-Cookie: {cookie}" for cookie in cookies))


@pytest.fixture
def fetcher():
    fetcher = UrlFetcher(Options(url_timeout_s=30.0, url_max_redirects=3))
    yield fetcher
    fetcher.close()


def door(peer):
    """Lets in who shows the cookie that it gives."""
    while request := peer.request():
        if header(request, "cookie") == "seen=yes":
            peer.send(http("200 OK", b"image"))
        else:
            peer.send(redirect("/a.jpg", "seen=yes; Path=/"))


def test_a_host_that_redirects_to_itself_for_a_cookie(fetcher):
    """It is read, each time from the start: no fetch knows of another one's cookies."""
    with ScriptedServer(door) as server:
        for _ in range(2):
            assert fetcher.fetch(f"http://127.0.0.1:{server.port}/a.jpg", FOREVER) == b"image"


def test_a_host_that_wants_a_cookie_that_it_does_not_give(fetcher):
    """It ends at the number of redirects, as before."""

    def script(peer):
        while peer.request():
            peer.send(redirect("/a.jpg"))

    with ScriptedServer(script) as server, pytest.raises(SourceError, match="more than 3 redirects"):
        fetcher.fetch(f"http://127.0.0.1:{server.port}/a.jpg", FOREVER)


def test_threads_have_cookies_of_their_own(fetcher):
    """Of fetches from one host at the same time each shows the cookie that it was given."""
    numbers = iter(range(1000))
    both = threading.Barrier(2)

    def script(peer):
        while request := peer.request():
            shown = header(request, "cookie")
            if shown is None:
                both.wait(30)  # so that both have been given one before either shows it
                peer.send(redirect("/a.jpg", f"id={next(numbers)}"))
            else:
                peer.send(http("200 OK", shown.encode()))

    with ScriptedServer(script) as server, ThreadPoolExecutor(2) as pool:
        url = f"http://127.0.0.1:{server.port}/a.jpg"
        assert {*pool.map(lambda _: fetcher.fetch(url, FOREVER), range(2))} == {b"id=0", b"id=1"}


@pytest.mark.parametrize(
    ("cookie", "target", "shown"),
    [
        ("a=1", "http://one.site.test/b/c.jpg", "a=1"),
        ("a=1", "http://one.site.test:81/b/c.jpg", "a=1"),  # ports are no borders to cookies
        ("a=1", "http://two.site.test/b/c.jpg", None),
        ("a=1", "http://site.test/b/c.jpg", None),
        ("a=1", "http://other.test/b/c.jpg", None),
        ("a=1", "/c.jpg", None),  # it was set in /b
        ("a=1; Path=/", "/c.jpg", "a=1"),
        ("a=1; Path=/d", "/b/c.jpg", None),
        ("a=1; Domain=site.test", "http://two.site.test/b/c.jpg", "a=1"),
        ("a=1; Domain=.site.test", "http://two.site.test/b/c.jpg", "a=1"),
        ("a=1; Domain=site.test", "http://xsite.test/b/c.jpg", None),
        ("a=1; Domain=other.test", "http://other.test/b/c.jpg", None),
        ("a=1; Domain=two.site.test", "http://two.site.test/b/c.jpg", None),
        ("a=1; Domain=test", "http://other.test/b/c.jpg", None),
        ("a=1; Domain=.test", "http://other.test/b/c.jpg", None),
        ("a=1; Secure", "/b/c.jpg", None),
        ("a=1; HttpOnly; SameSite=Strict", "/b/c.jpg", "a=1"),
        ("a=1; Max-Age=0", "/b/c.jpg", None),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "/b/c.jpg", None),
        ("=; =;;, \x80", "/b/c.jpg", None),
    ],
)
def test_who_gets_a_cookie(cookie, target, shown, fetcher, monkeypatch):
    """The host that has set it, below the folder of its URL, and whom it names within its own domain."""
    asked = []

    def script(peer):  # a proxy, which is every host
        while request := peer.request():
            asked.append(header(request, "cookie"))
            peer.send(http("200 OK", b"image") if len(asked) == 2 else redirect(target, cookie))

    with ScriptedServer(script) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert fetcher.fetch("http://one.site.test/b/a.jpg", FOREVER) == b"image"
    assert asked == [None, shown]


@pytest.mark.parametrize(
    ("host", "cookie"),
    [
        *((host, "a=1") for host in ("minio", "localhost", "10.0.0.1", "[::1]", "a.b.c.test")),
        *((host, f"a=1; Domain={host}") for host in ("10.0.0.1", "a.b.c.test", "site.test")),
    ],
)
def test_hosts_of_every_kind(host, cookie, fetcher, monkeypatch):
    """Names without a dot and addresses have cookies too; so do hosts that name themselves."""
    asked = []

    def script(peer):
        while request := peer.request():
            asked.append(header(request, "cookie"))
            peer.send(http("200 OK", b"image") if len(asked) == 2 else redirect("/", cookie))

    with ScriptedServer(script) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert fetcher.fetch(f"http://{host}/", FOREVER) == b"image"
    assert asked == [None, "a=1"]


def test_a_domain_that_belongs_to_many(fetcher, monkeypatch):
    """A cookie for all of co.uk is not taken."""
    asked = []

    def script(peer):
        while request := peer.request():
            asked.append(header(request, "cookie"))
            answer = redirect("http://victim.co.uk/", "a=1; Domain=co.uk")
            peer.send(http("200 OK", b"image") if len(asked) == 2 else answer)

    with ScriptedServer(script) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert fetcher.fetch("http://attacker.co.uk/", FOREVER) == b"image"
    assert asked == [None, None]


def test_a_login_goes_nowhere_else(fetcher, monkeypatch):
    """User and password of a URL are for its host, with cookies or without."""
    asked = []

    def script(peer):
        while request := peer.request():
            asked.append((header(request, "authorization"), header(request, "cookie")))
            hops = ["http://one.test/b.jpg", "http://two.test/c.jpg"]
            peer.send(http("200 OK", b"image") if len(asked) == 3 else redirect(hops[len(asked) - 1], "a=1"))

    with ScriptedServer(script) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert fetcher.fetch("http://me:word@one.test/a.jpg", FOREVER) == b"image"
    assert asked == [("Basic bWU6d29yZA==", None), ("Basic bWU6d29yZA==", "a=1"), (None, None)]
