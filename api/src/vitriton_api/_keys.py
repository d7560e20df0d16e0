"""The API keys, in a file that is followed."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from vitriton._errors import InvalidOption

from vitriton_api._errors import RequestRefused

_LOG = logging.getLogger("vitriton.api")

_LOOK_S = 1.0
_LINE = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)[ \t]+(?P<key>[A-Za-z0-9._~+/=-]{24,4000})")
_BEARER = re.compile(r"bearer +(?P<key>\S+)", re.IGNORECASE)


class Keys:
    """The keys that callers may send. A file that changes is read again; one that cannot be used changes nothing.

    The file has a line `name key` for each key; a line may be empty, or a comment that begins with #. It is also the
    form of the gateway's tokens.

    Args:
        path: the file.
        clock: a monotonic clock, in seconds.

    Raises:
        InvalidOption: the file cannot be used.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._digests: dict[bytes, str] = {}  # to the names of the keys
        self._seen: tuple[int, ...] | None = None
        self._looked_s = clock()
        self._digests, self._seen = self._read()

    def check(self, authorization: str) -> str:
        """Checks the header `authorization` of a request; returns the name of its key.

        Raises:
            RequestRefused: it has no key, or an unknown one.
        """
        self._follow()
        found = _BEARER.fullmatch(authorization.strip())
        given = _digest(found["key"] if found else "")
        # All are compared, and digests of equal length: the time says nothing about a key.
        known = [hmac.compare_digest(given, digest) for digest in self._digests]
        if found is None or not any(known):
            text = "the key is unknown" if found else "there is no key: send Authorization: Bearer KEY"
            raise RequestRefused(text, status=401, code="invalid_api_key")
        return self._digests[given]

    def _follow(self) -> None:
        """Reads the file again if it has changed; at most once a second."""
        now_s = self._clock()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        try:
            if self._state() == self._seen:
                return
            self._digests, self._seen = self._read()
        except (InvalidOption, OSError) as exc:
            state = self._state_or_none()
            if state != self._seen:
                _LOG.warning("the API keys cannot be used as they are now, and those before stay: %s", exc)
            self._seen = state
        else:
            count = len(self._digests)
            _LOG.info("the API keys have changed: %d %s", count, "key" if count == 1 else "keys")

    def _state(self) -> tuple[int, ...]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _state_or_none(self) -> tuple[int, ...] | None:
        try:
            return self._state()
        except OSError:
            return None

    def _read(self) -> tuple[dict[bytes, str], tuple[int, ...]]:
        try:
            state, text = self._state(), self._path.read_text("utf-8")
        except (OSError, ValueError) as exc:
            raise InvalidOption("api_keys_file", f"{self._path} cannot be read: {exc}") from exc
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        digests = {}
        for number, line in lines:
            if line and not line.startswith("#"):
                found = _LINE.fullmatch(line)
                if found is None:
                    wrong = (
                        f"{self._path}, line {number}, is not `name key`; a key has 24 to 4000 characters of A-Z a-z "
                        "0-9 . _ ~ + / = -"
                    )
                    raise InvalidOption("api_keys_file", wrong)
                digests[_digest(found["key"])] = found["name"]
        if not digests:
            raise InvalidOption("api_keys_file", f"{self._path} has no key")
        return digests, state


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
