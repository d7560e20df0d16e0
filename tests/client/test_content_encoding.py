"""What a web server says of a URL's body: its status and its Content-Encoding, over real sockets."""

import gzip
import sys
import zlib

import pytest
from client.scripted import ScriptedServer, http
from vitriton import Options
from vitriton._deadline import Deadline
from vitriton._images.failure import SourceError
from vitriton._images.fetch import UrlFetcher

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 2
WEBP = b"RIFF\x0c\x02\0\0WEBPVP8 " + bytes(range(256)) * 2
LIMIT = 1000


def fetch(answer):
    """The body of a URL whose server answers with these bytes."""

    def script(peer):
        peer.request()
        peer.send(answer)

    with ScriptedServer(script) as server:
        fetcher = UrlFetcher(Options(url_max_bytes=LIMIT, url_timeout_s=30.0))
        try:
            return fetcher.fetch(f"http://127.0.0.1:{server.port}/a.jpg", Deadline.after(None))
        finally:
            fetcher.close()


def coded(body, *codings):
    return http("200 OK", body, *(f"Content-Encoding: {coding}" for coding in codings))


def zipped(data):
    """Gzip without the time, so that parameters have the same names in every process."""
    return gzip.compress(data, mtime=0)


def deflated(data):
    """Deflate without zlib's header, as some servers send it under that name."""
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


@pytest.mark.parametrize(
    "label",
    [
        "aws-chunked",
        "utf-8",
        "UTF-8",
        "base64",
        "none",
        "binary",
        "jpeg",
        "image/jpeg",
        "8bit",
        "null",
        ",",
        "aws-chunked,",
    ],
)
def test_what_is_no_encoding_is_ignored(label):
    """Object stores hand out whatever the file was uploaded with."""
    assert fetch(coded(JPEG, label)) == JPEG


@pytest.mark.parametrize("label", ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "gzip, br", "deflate, gzip"])
@pytest.mark.parametrize("image", [JPEG, WEBP], ids=["JPEG", "WebP"])
def test_a_label_that_is_left_over(label, image):
    """What something on the way has decoded, or nobody has encoded, is the image as it is."""
    assert fetch(coded(image, label)) == image


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        (zipped(JPEG), ["gzip"]),
        (zipped(JPEG), ["GZip"]),
        (zipped(JPEG), ["x-gzip"]),
        (zipped(JPEG), ["gzip, aws-chunked"]),
        (zipped(JPEG), ["aws-chunked", "gzip"]),
        (zipped(JPEG), ["gzip, gzip"]),  # one of them is left over
        (zipped(zipped(JPEG)), ["gzip, gzip"]),
        (zipped(zlib.compress(JPEG)), ["deflate, gzip"]),
        (zipped(JPEG[:100]) + zipped(JPEG[100:]), ["gzip"]),
        (zipped(JPEG) + b"garbage", ["gzip"]),
        (zipped(JPEG) + bytes(100), ["gzip"]),
        (zlib.compress(JPEG), ["deflate"]),
        (zlib.compress(JPEG, 0), ["deflate"]),
        (deflated(JPEG), ["deflate"]),
    ],
)
def test_decoded(body, labels):
    """S3 serves an object that was stored compressed as it is stored, whatever it is asked for."""
    assert fetch(coded(body, *labels)) == JPEG


def test_brotli():
    """It is decoded where the module brotli is installed."""
    import brotli

    assert fetch(coded(brotli.compress(JPEG), "br")) == JPEG
    with pytest.raises(SourceError, match="over the limit of 1000 bytes"):
        fetch(coded(brotli.compress(bytes(10**8)), "br"))
    with pytest.raises(SourceError, match="'br', and these bytes end too early"):
        fetch(coded(brotli.compress(JPEG)[:-5], "br"))


@pytest.mark.parametrize("version", [None, "1.1"])
def test_brotli_without_its_module(version, monkeypatch):
    """Elsewhere, and where that cannot be bounded, the error says what to install; an intact image needs nothing."""

    class Decompressor:
        def process(self, data):
            raise AssertionError("not called with a limit")

    module = None if version is None else type(sys)("brotli")
    if module is not None:
        module.Decompressor = Decompressor
    monkeypatch.setitem(sys.modules, "brotli", module)
    with pytest.raises(SourceError, match=r"Content-Encoding 'br'.*pip install 'brotli>=1\.2'"):
        fetch(coded(b"\x0b\x02\x80hello\x03", "br"))
    assert fetch(coded(JPEG, "br")) == JPEG


@pytest.mark.parametrize(
    ("body", "label", "says", "code"),
    [
        (zipped(bytes(10**7)), "gzip", "over the limit of 1000 bytes (Options.url_max_bytes)", "too_large"),
        (
            zipped(zipped(bytes(10**8))),
            "gzip, gzip",
            "over the limit of 1000 bytes (Options.url_max_bytes)",
            "too_large",
        ),
        (zlib.compress(bytes(10**6)), "deflate", "over the limit of 1000 bytes (Options.url_max_bytes)", "too_large"),
        (deflated(bytes(10**6)), "deflate", "over the limit of 1000 bytes (Options.url_max_bytes)", "too_large"),
        (zipped(JPEG) * 2, "gzip", "over the limit of 1000 bytes (Options.url_max_bytes)", "too_large"),
        (zipped(JPEG)[:-9], "gzip", "'gzip', and these bytes end too early", "truncated"),
        (zipped(JPEG)[:3], "gzip", "'gzip', and these bytes end too early", "truncated"),
        (zipped(JPEG) + zipped(JPEG)[:8], "gzip", "'gzip', and these bytes end too early", "truncated"),
        (zlib.compress(JPEG)[:-9], "deflate", "'deflate', and these bytes end too early", "truncated"),
        (zipped(JPEG)[:-5] + bytes(5), "gzip", "'gzip', and these bytes cannot be decoded", "not_fetched"),
        (zipped(JPEG), ", ".join(["gzip"] * 6), "at most 5 can be decoded", "not_fetched"),
        (b"\x28\xb5\x2f\xfd" + bytes(50), "zstd", "'zstd', which cannot be decoded by this client", "not_fetched"),
        (b"\x1f\x9d\x90" + bytes(50), "compress", "'compress', which cannot be decoded by this client", "not_fetched"),
    ],
)
def test_refused(body, label, says, code):
    """A body that becomes too large, or is broken, says so."""
    with pytest.raises(SourceError) as caught:
        fetch(coded(body, label))
    assert says in str(caught.value)
    assert caught.value.code == code


def test_many_empty_members():
    """A gzip body of empty members, three million in 64 MiB, which no limit of bytes ends, is refused soon."""
    body = zipped(b"") * 200_000
    options = Options(url_timeout_s=60.0)

    def script(peer):
        peer.request()
        peer.send(coded(body, "gzip"))

    with ScriptedServer(script) as server:
        fetcher = UrlFetcher(options)
        with pytest.raises(SourceError, match="a gzip body of over 10000 members"):
            fetcher.fetch(f"http://127.0.0.1:{server.port}/a.jpg", Deadline.after(60))
        fetcher.close()


def test_without_a_label_nothing_is_decoded():
    """It is a compressed file then, which is no image here, as it is none on a disk."""
    assert fetch(http("200 OK", zipped(JPEG))) == zipped(JPEG)


N = len(JPEG)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("203 Non-Authoritative Information", []),
        ("200 OK", [f"Content-Range: bytes 0-{N - 1}/{N}"]),
        ("200 OK", ["Content-Range: bytes 5-9/1000"]),  # means nothing with this status
        ("206 Partial Content", [f"Content-Range: bytes 0-{N - 1}/{N}"]),
        ("206 Partial Content", [f"content-range: Bytes  0-{N - 1}/{N} "]),
        ("206 Partial Content", []),
    ],
)
def test_whole(status, headers):
    """A body that is whole is taken, under whatever status it comes."""
    assert fetch(http(status, JPEG, *headers)) == JPEG


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (
            "206 Partial Content",
            [f"Content-Range: bytes 0-{N - 1}/{N + 1}"],
            "answered 206 Partial Content with only a part",
        ),
        ("206 Partial Content", [f"Content-Range: bytes 1-{N}/{N + 1}"], "with only a part of the content (bytes 1-"),
        ("206 Partial Content", [f"Content-Range: bytes 0-{N - 1}/*"], "with only a part of the content"),
        (
            "206 Partial Content",
            ["Content-Range: bytes 0-9/10"],
            "with only a part of the content",
        ),  # which is not what came
        ("206 Partial Content", ["Content-Range: nonsense"], "with only a part of the content (nonsense)"),
        ("206 Partial Content", ["Content-Type: multipart/byteranges; boundary=x"], "with only a part of the content"),
        ("204 No Content", [], "the server answered 204 No Content"),
        ("205 Reset Content", [], "the server answered 205 Reset Content"),
        ("201 Created", [], "the server answered 201 Created"),
        ("304 Not Modified", [], "the server answered 304 Not Modified"),
    ],
)
def test_not_whole(status, headers, says):
    """A part of an image is none, and an answer without one says so."""
    body = JPEG if status.startswith(("206", "201")) else b""
    with pytest.raises(SourceError) as caught:
        fetch(http(status, body, *headers))
    assert says in str(caught.value)


def test_a_compressed_part_is_whole():
    """The range counts the bytes as they are sent."""
    body = zipped(JPEG)
    sent = http(
        "206 Partial Content", body, f"Content-Range: bytes 0-{len(body) - 1}/{len(body)}", "Content-Encoding: gzip"
    )
    assert fetch(sent) == JPEG
