"""Content-Encoding: an encoding is decoded only if the bytes show it too, and only up to a limit.

Object stores keep any label of an upload (`aws-chunked`, `utf-8`, `base64`) and serve compressed objects whatever the
request accepts, and a proxy may have decoded a body and left the label.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any

from vitriton._errors import VitritonError
from vitriton._images.failure import SourceError

_MOST_CODINGS = 5
_MOST_MEMBERS = 10_000  # of a gzip body: bgzip's hold 64 KiB each; empty ones never reach the size limit
_PIECE_BYTES = 4096  # small, because the data after the end of a stream is copied
_GZIP = b"\x1f\x8b"
_GZIP_FORMAT, _ZLIB_FORMAT, _RAW_FORMAT = 31, 15, -15  # zlib's wbits
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")


def decode(body: bytes, codings: str, limit: int) -> bytes:
    """Decodes a body. Of one that is over `limit`, only a beginning that is over it too.

    Args:
        body: the body as received.
        codings: the header's value; unknown encodings in it are ignored.
        limit: the most bytes of each decoding step.

    Raises:
        SourceError: the body cannot be decoded.
    """
    known = [name for name in (part.strip().lower() for part in codings.split(",")) if name in _DECODERS]
    if len(known) > _MOST_CODINGS:
        raise SourceError(
            f"the server sent it with {len(known)} encodings; at most {_MOST_CODINGS} can be decoded", "not_fetched"
        )
    for name in reversed(known):
        said = f"the server sent it with Content-Encoding {name!r}, "
        try:
            body = _DECODERS[name](body, limit + 1)
        except _TooEarly as exc:
            raise SourceError(f"{said}and these bytes end too early", "truncated") from exc
        except zlib.error as exc:
            raise SourceError(f"{said}and these bytes cannot be decoded: {exc}", "not_fetched") from exc
        except _NoDecoder as exc:
            raise SourceError(f"{said}which {exc}", "not_fetched") from exc
        if len(body) > limit:
            break
    return body


class _TooEarly(VitritonError):  # noqa: N818 - says what happened
    """The encoded bytes end too early."""


class _NoDecoder(VitritonError):  # noqa: N818 - says what happened
    """An encoding has no decoder; the text says why, and what to do."""


def _gzip(body: bytes, most: int) -> bytes:
    return _inflate(body, _GZIP_FORMAT, most) if body.startswith(_GZIP) else body


def _deflate(body: bytes, most: int) -> bytes:
    """The standard means zlib's format; some servers send raw deflate, which the bytes do not show."""
    if len(body) > 1 and body[0] & 0x8F == 8 and int.from_bytes(body[:2], "big") % 31 == 0:
        return _inflate(body, _ZLIB_FORMAT, most)
    try:
        return _inflate(body, _RAW_FORMAT, most)
    except (zlib.error, _TooEarly):
        return body


def _inflate(body: bytes, wbits: int, most: int) -> bytes:
    """Decompresses up to `most` bytes, all members of a gzip body; ignores what follows them."""
    pieces: list[bytes] = []
    size = start = members = 0
    inflate = zlib.decompressobj(wbits)
    while start < len(body):
        piece = body[start : start + _PIECE_BYTES]
        pieces.append(inflate.decompress(piece, most - size))
        size += len(pieces[-1])
        start += len(piece) - len(inflate.unused_data)
        if size == most or (inflate.eof and not (wbits == _GZIP_FORMAT and body.startswith(_GZIP, start))):
            return b"".join(pieces)
        if inflate.eof:
            inflate = zlib.decompressobj(wbits)
            members += 1
            if members == _MOST_MEMBERS:
                raise SourceError(f"the server sent a gzip body of over {_MOST_MEMBERS} members", "too_large")
    raise _TooEarly


def _brotli(body: bytes, most: int) -> bytes:
    """Brotli's bytes have no signature."""
    if body.startswith(_IMAGES):
        return body
    try:
        brotli: Any = importlib.import_module("brotli")
        decoder = brotli.Decompressor()
        data: bytes = decoder.process(body, output_buffer_limit=most)
    except (ImportError, TypeError) as exc:  # TypeError: a version without a limit
        raise _NoDecoder("needs a module to decode: pip install 'brotli>=1.2'") from exc
    except brotli.error:
        return body
    pieces = [data]
    size = len(data)
    while size < most and not decoder.is_finished():
        pieces.append(decoder.process(b"", output_buffer_limit=most))
        size += len(pieces[-1])
        if not pieces[-1]:
            raise _TooEarly
    return b"".join(pieces)


def _refused(sign: bytes) -> Callable[[bytes, int], bytes]:
    def decode(body: bytes, most: int) -> bytes:
        if body.startswith(sign):
            raise _NoDecoder("cannot be decoded by this client; store the image without it")
        return body

    return decode


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _refused(b"\x28\xb5\x2f\xfd"),
    "compress": _refused(b"\x1f\x9d"),
    "x-compress": _refused(b"\x1f\x9d"),
}
