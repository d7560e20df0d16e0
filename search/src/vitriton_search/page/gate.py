"""Who is let in: requests that name this page, from this page, with the token where there is one."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vitriton._errors import InvalidOption

from vitriton_search.page.refusals import PageRefused

LOGIN = "/api/login"

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{24,4000}")
_BEARER = re.compile(r"bearer +(?P<token>\S+)", re.IGNORECASE)
_COOKIE_S = 30 * 24 * 3600
_SAME = ("same-origin", "none")  # a request of the page itself, and one that a person has typed

# Whatever a store or a file name holds: no script but the page's own runs, nothing is loaded from elsewhere, and no
# other site can show the page in a frame, or one of its pictures.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class PageToken:
    """The token of a page that others can reach, and the cookie that stands for it.

    Args:
        token: the token.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._proof = hmac.new(self._token, b"vitriton search serve", hashlib.sha256).hexdigest()
        # Ports of one host share their cookies: each token has one of its own
        self._name = f"vitriton_search_{self._proof[:8]}"

    @classmethod
    def read(cls, path: Path) -> PageToken:
        """Reads a token from a file, which holds nothing else.

        Raises:
            InvalidOption: the file cannot be read, or holds no token.
        """
        try:
            text = path.read_text("utf-8").strip()
        except (OSError, ValueError) as exc:
            raise InvalidOption("token_file", f"{path} cannot be read: {exc}") from exc
        if not _TOKEN.fullmatch(text):
            wrong = "holds no token: 24 to 4000 characters of A-Z a-z 0-9 . _ ~ + / = -, and nothing else"
            raise InvalidOption("token_file", f"{path} {wrong}; make one with `openssl rand -hex 32`")
        return cls(text)

    def is_right(self, given: str) -> bool:
        """Whether a text is the token; the time that this takes says nothing about it."""
        return hmac.compare_digest(
            hashlib.sha256(given.encode("utf-8", "replace")).digest(), hashlib.sha256(self._token).digest()
        )

    def is_known(self, request: HTTPConnection) -> bool:
        """Whether a request has the token, in the header `authorization` or by the cookie."""
        found = _BEARER.fullmatch(request.headers.get("authorization", "").strip())
        if found is not None:
            return self.is_right(found["token"])
        return hmac.compare_digest(request.cookies.get(self._name, "").encode(), self._proof.encode())

    def remember(self, response: Response, *, is_encrypted: bool) -> None:
        """Sets the cookie. It does not tell the token, scripts do not see it, and other sites do not send it."""
        response.set_cookie(
            self._name, self._proof, max_age=_COOKIE_S, httponly=True, samesite="strict", secure=is_encrypted
        )


def host_names(host: str, others: Iterable[str] = ()) -> frozenset[str]:
    """The names by which the page may be asked for.

    A site that an attacker owns can let its own name lead to this machine, so that a browser takes the page for a part
    of that site (DNS rebinding). Such a request has that name in its header `host`.

    Args:
        host: the host name or address that the page listens on.
        others: the further names, such as that of a proxy.
    """
    return frozenset(name.lower().rstrip(".") for name in ("localhost", host, socket.gethostname(), *others))


class PageGate:
    """An ASGI application that lets requests in to another one, and puts `HEADERS` on all answers.

    Args:
        app: the other one.
        names: the names by which it may be asked for; addresses in numbers always may.
        token: the token that requests to /api need; None: they need none.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str], token: PageToken | None) -> None:
        self._app = app
        self._names = names
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(HTTPConnection(scope))
        app = self._app if refusal is None else refused(refusal)
        await app(scope, receive, send_guarded)

    def _refusal(self, request: HTTPConnection) -> PageRefused | None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_mine(hosts[0]):
            text = "this page is not served under that name; use its address, or start it with --server-name NAME"
            return PageRefused(text, 421)
        path = request.scope["path"]
        if not path.startswith("/api/"):  # the page itself, which shows nothing of a store
            return None
        origin = request.headers.get("origin")
        is_foreign = request.headers.get("sec-fetch-site", "none") not in _SAME
        if is_foreign or (origin is not None and origin.partition("://")[2] != hosts[0]):
            return PageRefused("other sites may not ask this page", 403)
        if self._token is None or path == LOGIN or self._token.is_known(request):
            return None
        return PageRefused("this page needs its token", 401)

    def _is_mine(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found["v6"] or found["name"]).lower().rstrip(".")
        return name in self._names or _is_address(name)


def refused(refusal: PageRefused) -> Response:
    """The answer to a request that is refused."""
    headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
    return JSONResponse({"error": str(refusal), "field": refusal.field}, refusal.status, headers)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
