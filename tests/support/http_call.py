"""One HTTP request, as the tests of the endpoint and of the page send it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

JSON = {"content-type": "application/json"}


class HttpAnswer(NamedTuple):
    """What a server answered.

    Attributes:
        status: the status code.
        headers: the headers, by their names in lower case.
        body: the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)


def send(
    address: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, method: str | None = None
) -> HttpAnswer:
    """Sends a request to `host:port`: GET without a body, else POST. A body that is not bytes is sent as JSON.

    `_` in the name of a header is `-`, so that keyword arguments can be headers.
    """
    given = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    if not (body is None or isinstance(body, bytes)):
        body, given = json.dumps(body).encode(), JSON | given
    with closing(http.client.HTTPConnection(address, timeout=120)) as connection:
        connection.request(method or ("GET" if body is None else "POST"), path, body, given)
        answer = connection.getresponse()
        return HttpAnswer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
