"""Fetches image URLs within limits."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vitriton._deadline import Deadline
from vitriton._images.coding import decode
from vitriton._images.failure import SourceError
from vitriton._net.network import Network
from vitriton._net.operation import Operation, OperationCancelled
from vitriton._options import Options

if TYPE_CHECKING:
    import httpx

_CLOSED = "the client is closed"
_LAST_PORT = 65535


class UrlFetcher:
    """Fetches URLs over kept-alive connections. Safe to share between threads.

    The proxies of the environment (HTTPS_PROXY, ...) are used, unless private addresses are refused: a proxy's own
    connections cannot be checked here. Certificates are checked against certifi's, or those of SSL_CERT_FILE.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None
        self._running: set[Operation] = set()
        self._closed = False

    def fetch(self, url: str, deadline: Deadline) -> bytes:
        """Fetches the body of `url`.

        Args:
            url: the URL, with the scheme http or https.
            deadline: the deadline of the whole call; `url_timeout_s` limits this URL, and the shorter time counts.

        Raises:
            SourceError: the URL cannot be fetched; the text says why.
        """
        import httpcore
        import httpx

        from vitriton._net.backend import AddressRefusedError

        timeout_s = deadline.bounded_s(self._options.url_timeout_s)
        try:
            with self._operation(timeout_s), self._open(url) as response:
                return self._read(response)
        except httpcore.TimeoutException as exc:
            own = timeout_s == self._options.url_timeout_s
            limit = "Options.url_timeout_s; timeout of a pipeline" if own else "the rest of timeout_s"
            raise SourceError(f"no complete answer in {timeout_s:.3g} s ({limit})", "fetch_timeout") from exc
        except OperationCancelled as exc:
            raise SourceError(_CLOSED, "not_fetched") from exc
        except AddressRefusedError as exc:
            raise SourceError(str(exc), "address_refused") from exc
        except httpcore.UnsupportedProtocol as exc:
            raise SourceError(f"it leads to a URL that is neither http nor https: {exc}", "bad_url") from exc
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, httpx.HTTPError) as exc:
            raise SourceError(_failed(exc), "not_fetched") from exc
        except (httpx.InvalidURL, ValueError) as exc:  # ValueError: a host name or port that cannot be encoded
            raise SourceError(_failed(exc), "bad_url") from exc

    def close(self) -> None:
        """Cancels running fetches and closes the connections. May be called again."""
        with self._lock:
            self._closed = True
            running = list(self._running)
            client, self._http = self._http, None
        for operation in running:
            operation.cancel()
        if client is not None:
            client.close()

    @contextlib.contextmanager
    def _operation(self, timeout_s: float) -> Iterator[None]:
        """Limits everything that this thread does inside to the time of one URL; closing the fetcher cancels it."""
        operation = Operation(Deadline.after(timeout_s))
        with self._lock:
            if self._closed:
                raise SourceError(_CLOSED, "not_fetched")
            self._running.add(operation)
        try:
            with operation:
                yield
        finally:
            with self._lock:
                self._running.discard(operation)

    @contextlib.contextmanager
    def _open(self, url: str) -> Iterator[httpx.Response]:
        """Follows redirects to the final response; their own bodies, which nothing limits, are not read.

        Cookies that redirects set are sent with the rest of this fetch, to their hosts, and with nothing else.
        """
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx

        client = self._client()
        cookies = httpx.Cookies(CookieJar(DefaultCookiePolicy(strict_domain=True)))  # no cookies for all of co.uk
        request = client.build_request("GET", url)
        if not request.url.host:
            raise SourceError("the URL has no host", "bad_url")
        if request.url.port is not None and request.url.port > _LAST_PORT:
            raise SourceError(f"its port is {request.url.port}; the last one is {_LAST_PORT}", "bad_url")
        for _ in range(self._options.url_max_redirects + 1):
            _hide_secrets(request)
            cookies.set_cookie_header(request)
            response = client.send(request, stream=True)
            try:
                cookies.extract_cookies(response)
                if response.next_request is None:
                    yield response
                    return
                request = response.next_request
            finally:
                response.close()
        raise SourceError(
            f"more than {self._options.url_max_redirects} redirects (Options.url_max_redirects)", "bad_url"
        )

    def _client(self) -> httpx.Client:
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx

        from vitriton._net.backend import NetworkTransport
        from vitriton._version import __version__

        with self._lock:
            if self._closed:
                raise SourceError(_CLOSED, "not_fetched")
            if self._http is None:
                refuse = self._options.refuse_private_addresses
                try:
                    transport = NetworkTransport(Network(refuse_private=refuse), proxies=not refuse)
                except OSError as exc:  # ssl's own errors are among them
                    raise SourceError(
                        f"the CA certificates for URLs cannot be read ({exc}); correct or unset "
                        "SSL_CERT_FILE and SSL_CERT_DIR",
                        "not_fetched",
                    ) from exc
                self._http = httpx.Client(
                    transport=transport,
                    follow_redirects=False,  # see _open
                    timeout=None,  # the operation's deadline replaces it
                    # identity: images are compressed already
                    headers={"User-Agent": f"vitriton/{__version__}", "Accept-Encoding": "identity"},
                    # one URL's cookies must not reach the next one: see _open
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                )
            return self._http

    def _read(self, response: httpx.Response) -> bytes:
        status = f"the server answered {response.status_code} {response.reason_phrase}".rstrip()
        if response.status_code not in (200, 203, 206):
            raise SourceError(status, "not_fetched")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal():
            self._check_size(int(length))
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            self._check_size(len(body))
        if response.status_code == 206 and not _is_whole(response, len(body)):
            part = response.headers.get("Content-Range") or response.headers["Content-Type"]
            raise SourceError(
                f"{status} with only a part of the content ({part}), although all of it was requested", "not_fetched"
            )
        image = decode(bytes(body), response.headers.get("Content-Encoding", ""), self._options.url_bytes)
        self._check_size(len(image))
        return image

    def _check_size(self, size: int) -> None:
        if size > self._options.url_bytes:
            raise SourceError(
                f"its body is over the limit of {self._options.url_bytes} bytes (Options.url_max_bytes)", "too_large"
            )


def _failed(error: Exception) -> str:
    return f"it cannot be fetched: {' '.join(str(error).split()) or type(error).__name__}"


def _is_whole(response: httpx.Response, size: int) -> bool:
    """Whether a "partial" body of this size is the whole one; no range was requested."""
    if response.headers.get("Content-Type", "").lower().startswith("multipart/"):
        return False
    span = response.headers.get("Content-Range")
    return span is None or span.lower().split() == ["bytes", f"0-{size - 1}/{size}"]


def _hide_secrets(request: httpx.Request) -> None:
    """Removes user, password and query from the request's URL, which httpx logs; they are sent anyway."""
    url = request.url
    if url.userinfo:
        login = base64.b64encode(f"{url.username}:{url.password}".encode())
        request.headers["Authorization"] = f"Basic {login.decode()}"
    request.extensions["target"] = url.raw_path
    request.url = url.copy_with(username=None, password=None, query=None, fragment=None)
