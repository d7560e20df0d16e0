"""Fetches image URLs, within bounds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

from vitriton._deadline import Deadline
from vitriton._options import Options
from vitriton._sources import SourceError

if TYPE_CHECKING:
    import httpx


class UrlFetcher:
    """Keeps connections open between fetches; safe to share between threads."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None

    def fetch(self, url: str, deadline: Deadline) -> bytes:
        """The body of `url`.

        Args:
            url: http or https.
            deadline: of the whole call; the URL's own time is `url_timeout_s`, and the shorter one counts.

        Raises:
            SourceError: it cannot be had; the text says why.
        """
        import httpx

        timeout_s = deadline.bounded_s(self._options.url_timeout_s)
        own = Deadline.after(timeout_s)
        late = f"no complete answer in {timeout_s:g} s (url_timeout_s)"
        try:
            # httpx limits each step (connecting, each read); the whole is limited between the pieces of the body.
            with self._open(url, own, late) as response:
                self._check(response)
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    self._check_size(len(body))
                    if own.expired:
                        raise SourceError(late)
                return bytes(body)
        except httpx.TimeoutException as exc:
            raise SourceError(late) from exc
        except httpx.UnsupportedProtocol as exc:
            raise SourceError(f"it leads to a URL that is neither http nor https: {exc}") from exc
        # ValueError: a host name or port that cannot be encoded
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
            raise SourceError(f"it cannot be fetched: {type(exc).__name__}: {' '.join(str(exc).split())}") from exc

    @contextlib.contextmanager
    def _open(self, url: str, own: Deadline, late: str) -> Iterator[httpx.Response]:
        """The response at the end of the redirects, whose own bodies, which nothing bounds, are not read."""
        client = self._client()
        request = client.build_request("GET", url)
        for _ in range(self._options.url_max_redirects + 1):
            if own.expired:
                raise SourceError(late)
            request.extensions["timeout"] = _each_step(own.bounded_s(self._options.url_timeout_s))
            response = client.send(request, stream=True)
            try:
                if response.next_request is None:
                    yield response
                    return
                request = response.next_request
            finally:
                response.close()
        raise SourceError(f"more than {self._options.url_max_redirects} redirects (url_max_redirects)")

    def close(self) -> None:
        """Closes the connections. May be called again."""
        with self._lock:
            client, self._http = self._http, None
        if client is not None:
            client.close()

    def _client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._http is None:
                from vitriton import __version__

                self._http = httpx.Client(
                    follow_redirects=False,  # see _open
                    # identity: a compressed body could grow without bound, and images are compressed already
                    headers={"User-Agent": f"vitriton/{__version__}", "Accept-Encoding": "identity"},
                    # one URL's cookies are no business of the next one's
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                )
            return self._http

    def _check(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            raise SourceError(f"the server answered {response.status_code} {response.reason_phrase}".rstrip())
        length = response.headers.get("Content-Length", "")
        if length.isdecimal():
            self._check_size(int(length))

    def _check_size(self, size: int) -> None:
        if size > self._options.url_max_bytes:
            raise SourceError(f"its body is over the limit of {self._options.url_max_bytes} bytes (url_max_bytes)")


def _each_step(seconds: float) -> dict[str, float]:
    return dict.fromkeys(("connect", "read", "write", "pool"), seconds)
