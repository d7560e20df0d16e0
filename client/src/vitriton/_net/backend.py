"""Runs httpcore and httpx, which fetch the image URLs, over `Network`."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from vitriton._errors import VitritonError
from vitriton._net.network import Network, Stream
from vitriton._net.operation import AddressRefused, ConnectFailed, ConnectionLost, OutOfTime

_IDLE_CONNECTIONS = 20
_IDLE_S = 5.0


class AddressRefusedError(VitritonError, httpcore.ConnectError):
    """`AddressRefused` as an error that httpcore passes on."""


class NetworkTransport(httpx.BaseTransport):
    """The transport of an `httpx.Client`. Raises httpcore's errors. Safe to share between threads.

    Args:
        network: the network that makes the connections.
        proxies: whether to use the proxies that the environment names (HTTPS_PROXY, NO_PROXY, ...). Connections then go
            to the proxy.
    """

    def __init__(self, network: Network, *, proxies: bool) -> None:
        self._backend = NetworkBackend(network)
        self._proxies = getproxies() if proxies else {}
        self._context = httpx.create_ssl_context()
        self._lock = threading.Lock()
        self._pools: dict[str, httpcore.ConnectionPool] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request and returns the response; its body is read later."""
        url = request.url
        if url.scheme not in ("http", "https"):
            raise httpcore.UnsupportedProtocol(f"{url.scheme}://")
        target = request.extensions.get("target", url.raw_path)
        variable, proxy = self._proxy(url)
        try:
            response = self._pool(proxy).handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=target),
                    headers=request.headers.raw,
                )
            )
        except (httpcore.ConnectError, httpcore.ProxyError, httpx.InvalidURL) as exc:
            if not proxy:
                raise
            raise httpcore.ProxyError(f"the proxy that {variable} names cannot be used: {exc}") from exc
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()

    def _proxy(self, url: httpx.URL) -> tuple[str, str]:
        """The environment variable that names a proxy for `url`, and the proxy; both empty without one."""
        kind = url.scheme if self._proxies.get(url.scheme) else "all"
        proxy = self._proxies.get(kind) or ""
        return ("", "") if not proxy or proxy_bypass(url.host) else (f"{kind}_proxy", proxy)

    def _pool(self, proxy: str) -> httpcore.ConnectionPool:
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._make_pool(proxy)
            return self._pools[proxy]

    def _make_pool(self, proxy: str) -> httpcore.ConnectionPool:
        # No limit: nothing could end a wait in the pool. The number of callers' threads is the limit.
        settings: dict[str, Any] = {
            "ssl_context": self._context,
            "max_connections": None,
            "max_keepalive_connections": _IDLE_CONNECTIONS,
            "keepalive_expiry": _IDLE_S,
            "network_backend": self._backend,
        }
        if not proxy:
            return httpcore.ConnectionPool(**settings)
        given = httpx.URL(proxy if "://" in proxy else f"http://{proxy}")
        if given.scheme not in ("http", "https"):
            raise httpcore.ProxyError(f"it has the scheme {given.scheme}://; use http://")
        return httpcore.HTTPProxy(
            httpcore.URL(scheme=given.raw_scheme, host=given.raw_host, port=given.port, target=b"/"),
            proxy_auth=(given.username, given.password) if given.username or given.password else None,
            **settings,
        )


class NetworkBackend(httpcore.NetworkBackend):
    """Makes httpcore's connections.

    httpcore's time limits for each step are not used: the operation's deadline replaces them.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Opens a connection; httpx never passes `local_address` and `socket_options` here."""
        with _translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            return _NetworkStream(self._network.connect(host, port))


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _NetworkStream(httpcore.NetworkStream):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _translated(httpcore.ReadTimeout, httpcore.ReadError):
            return self._stream.read(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _translated(httpcore.WriteTimeout, httpcore.WriteError):
            self._stream.sendall(buffer)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            return _NetworkStream(self._stream.start_tls(ssl_context, server_hostname or ""))

    def get_extra_info(self, info: str) -> Any:
        # No ssl_object: httpcore needs it for HTTP/2 alone, which is not used here.
        return self._stream.is_readable if info == "is_readable" else None


@contextlib.contextmanager
def _translated(late: type[httpcore.TimeoutException], failed: type[httpcore.NetworkError]) -> Iterator[None]:
    try:
        yield
    except AddressRefused as exc:
        raise AddressRefusedError(str(exc)) from exc
    except (ConnectFailed, ConnectionLost) as exc:
        raise failed(str(exc)) from exc
    except OutOfTime as exc:
        raise late(str(exc)) from exc
