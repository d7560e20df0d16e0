"""Images in JSON: `data:` URIs, bare base64, and URLs. No text ever becomes a path here."""

from __future__ import annotations

import base64
import binascii
import re

from vitriton._errors import Unreadable

from vitriton_api._dialects.request import Input, Rules, Tower

# A text that begins like a data URI, such as "data: the new oil", is a text.
_DATA_URI = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<parameters>(?:;[\w.+=-]+)*),", re.IGNORECASE)
_SHOWN = 40  # characters of a text that is no image, in a message
_HEAD = 256  # the longest beginning of a data URI that is looked at
_URL = re.compile(r"https?://", re.IGNORECASE)
_NO_URLS = (
    "this endpoint fetches no URLs, unless who runs it allows that; send the image itself, as data:image/...;base64,..."
)


def of_text(text: str, where: str) -> Input:
    """A string that may be either: a `data:` URI is an image, anything else is a text."""
    found = _data_uri(text)
    if found is not None and (found["type"] or ";base64" in found["parameters"].lower()):
        return Input(where, "image", _decoded(text, found))
    return Input(where, "text", text)


def of_image(text: str, where: str, rules: Rules) -> Input:
    """A string that must be an image: a `data:` URI, a URL, or base64."""
    tower: Tower = "image"
    found = _data_uri(text)
    if found is not None:
        return Input(where, tower, _decoded(text, found))
    if _URL.match(text):
        return Input(where, tower, text if rules.fetches_urls else Unreadable(_NO_URLS, "bad_url"))
    try:
        return Input(where, tower, _from_base64(text))
    except ValueError:
        reason = f"it is neither a data:image/...;base64,... URI, nor an http(s) URL, nor base64: {_beginning(text)}"
        return Input(where, tower, Unreadable(reason, "bad_url"))


def _data_uri(text: str) -> re.Match[str] | None:
    return _DATA_URI.match(text, 0, _HEAD) if text[:5].lower() == "data:" else None


def _decoded(uri: str, found: re.Match[str]) -> bytes | Unreadable:
    kind = (found["type"] or "text/plain").lower()
    if not kind.startswith("image/"):
        return Unreadable(f"the data URI has the type {kind}; an image has image/...", "format")
    if not found["parameters"].lower().endswith(";base64"):
        return Unreadable("the data URI is not in base64: it must begin with data:image/...;base64,", "bad_url")
    try:
        return _from_base64(uri[found.end() :])
    except ValueError as exc:
        return Unreadable(f"the data URI has no valid base64 ({exc}): {_beginning(uri[found.end() :])}", "bad_url")


def _beginning(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def _from_base64(text: str) -> bytes:
    """The bytes; lines may be broken, as in mail.

    Raises:
        ValueError: the text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return base64.b64decode("".join(text.split()), validate=True)
