import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vitriton import Client, InvalidImage, Options
from vitriton._images.failure import SourceError
from vitriton._images.lossless import _for_pillow
from vitriton._images.sources import as_images, read_image, source_name
from vitriton.testing import FakeTransport

LIMIT = 1000


def never(url: str) -> bytes:
    raise AssertionError(f"fetched {url}")


def read(image, fetch=never):
    return read_image(image, max_bytes=LIMIT, fetch=fetch)


class Dribble(io.RawIOBase):
    """A file that gives one byte at a time."""

    def __init__(self, data):
        self._data = data

    def read(self, size=-1):
        piece, self._data = self._data[:1], self._data[1:]
        return piece


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("photos/cat.jpg", "photos/cat.jpg"),
        (Path("cat.jpg"), "cat.jpg"),
        ("line\nbreak.jpg", "line\\nbreak.jpg"),
        ("x" * 500, "x" * 60 + "..." + "x" * 60),
        ("https://me:pw@host/cat.jpg?token=secret#part", "https://host/cat.jpg"),
        ("data:image/png;base64,AAAA", "data URI"),
        (b"abc", "bytes"),
        (memoryview(b"abc"), "memoryview"),
        (np.zeros((2, 3, 3), np.uint8), "array (2, 3, 3) uint8"),
        (Image.new("RGB", (1, 1)), "PIL image"),
        (io.BytesIO(b"abc"), "file object"),
        (7, "int"),
    ],
)
def test_names(image, name):
    """An image is named on one line, and without what must not be in a log."""
    assert source_name(image) == name


@pytest.mark.parametrize(
    "image",
    [
        "a.jpg",
        Path("a.jpg"),
        b"a",
        bytearray(b"a"),
        io.BytesIO(b"a"),
        Image.new("L", (1, 1)),
        np.zeros((1, 1, 3), np.uint8),
    ],
)
def test_one_image(image):
    """A single image is a list of one."""
    images, total = as_images(image)
    assert total == 1
    assert images[0] is image


def test_many_images():
    """Lists, iterators and stacks of arrays are many images; an iterator does not tell how many."""
    assert as_images(["a", "b"])[1] == 2
    assert as_images(iter("ab"))[1] is None
    assert as_images(np.zeros((5, 2, 2, 3), np.uint8))[1] == 5
    assert as_images(np.array(["a", "b"]))[1] == 2


@pytest.mark.parametrize("images", [5, None, 1.5])
def test_no_images(images):
    """What is no image and holds none is a TypeError that says what to give."""
    with pytest.raises(TypeError, match="give a list"):
        as_images(images)


def test_bytes_travel_untouched(tmp_path):
    """Paths, bytes, file objects and data URIs are not decoded."""
    path = tmp_path / "a"
    path.write_bytes(b"no image at all")
    encoded = base64.b64encode(b"no image at all").decode()
    with path.open("rb") as file:
        kinds = [
            path,
            str(path),
            os.fsencode(path).decode(),
            b"no image at all",
            bytearray(b"no image at all"),
            memoryview(b"no image at all"),
            file,
            Dribble(b"no image at all"),
            f"data:image/png;base64,{encoded}",
            "DATA:,no%20image%20at%20all",
        ]
        assert {read(kind) for kind in kinds} == {b"no image at all"}


def test_urls_are_fetched():
    """Http and https URLs go to the fetcher."""
    assert read("HTTPS://host/a.jpg", fetch=str.encode) == b"HTTPS://host/a.jpg"


class File:
    """A file object that always gives the same."""

    def __init__(self, part):
        self.part = part

    def read(self, size):
        return self.part


def at_its_end(file):
    file.seek(0, io.SEEK_END)
    return file


@pytest.mark.parametrize(
    ("image", "says", "code"),
    [
        ("/no/such/file.jpg", "no such file", "not_found"),
        ("/tmp", "it is a folder", "kind"),
        ("/dev/zero", "not a regular file", "kind"),
        ("a\0b", "not the name of a file", "not_found"),
        ("photo", "no such file; a str is a path, an http(s) URL or a data: URI; put 'data:;base64,'", "not_found"),
        ("x" * 5000, "it is too long for a path; a str is a path, an http(s) URL or a data: URI; put", "not_found"),
        (Path("x" * 5000), "cannot be read: File name too long", "not_readable"),
        ("s3://bucket/a.jpg", "s3:// is not supported", "bad_url"),
        ("data:image/png;base64", "no comma", "bad_url"),
        ("data:;base64,AAA", "no valid base64: Incorrect padding", "bad_url"),
        (np.zeros(LIMIT + 1, np.uint8), "1001 bytes are over the limit of 1000 (Options.max_image_bytes)", "too_large"),
        (bytes(LIMIT + 1), "1001 bytes are over the limit of 1000 (Options.max_image_bytes)", "too_large"),
        ("data:," + "a" * 4000, "over the limit of", "too_large"),
        (io.BytesIO(bytes(LIMIT * 5)), "more than the limit of 1000 bytes (Options.max_image_bytes)", "too_large"),
        (at_its_end(io.BytesIO(b"abc")), "no bytes left to read; is it empty, or did you forget seek(0)?", "empty"),
        (io.StringIO("text"), "open it in binary mode", "kind"),
        (np.zeros((2, 2, 3)), "dtype float64; it must be uint8, (H, W, 3)", "shape"),
        (np.zeros((2, 2), np.uint8), "shape (2, 2)", "shape"),
        (np.zeros((5, 6), np.uint8), "; give PIL.Image.fromarray(array), which the client converts", "shape"),
        (np.zeros((5, 6, 4), np.uint8), "; give PIL.Image.fromarray(array), which", "shape"),
        (np.zeros((5, 6, 1), np.uint8), "; give PIL.Image.fromarray(array[:, :, 0]), which", "shape"),
        (np.zeros((1, 5, 6), np.uint8), "; give PIL.Image.fromarray(array[0]), which", "shape"),
        (np.zeros((4, 5, 6), np.uint8), "; give PIL.Image.fromarray(array.transpose(1, 2, 0)), which", "shape"),
        (np.zeros((5, 6, 7), np.uint8), "and not scaled or normalized", "shape"),
        (np.zeros((0, 2, 3), np.uint8), "at least one pixel", "shape"),
        (Image.new("RGB", (0, 5)), "no pixels", "empty"),
        (
            Image.new("L", (40, 50)),
            "40 x 50 pixels would be sent as 6000 bytes, over the limit of 1000 (Options.max_image_bytes); give the "
            "path or the bytes of its file, or scale it down",
            "too_large",
        ),
        (
            np.broadcast_to(np.uint8(0), (10**6, 10**6, 3)),
            "the pixels of shape (1000000, 1000000, 3) would be sent as 3000000000000 bytes, over the limit of 1000",
            "too_large",
        ),
        (File(5), "the file object returns int instead of bytes", "kind"),
        (File([1]), "the file object returns list instead of bytes", "kind"),
        (File(memoryview(np.zeros(500, np.int32))), "more than the limit of 1000", "too_large"),
        (None, "an object of type NoneType is not an image; give a path", "kind"),
    ],
)
def test_refused(image, says, code):
    """What cannot be used is refused with the reason."""
    with pytest.raises(SourceError) as caught:
        read(image)
    assert says in str(caught.value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "photo.jpg", "", Path("photo.jpg"), {"path": "photo.jpg"}, {"bytes": None, "path": Path("/etc")}],
)
def test_refused_paths(path, tmp_path, monkeypatch):
    """With `refuse_paths`, no path is opened, in whatever form it comes, and the error tells nothing of the file."""
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(b"secret")
    with Client("", model="any", transport=FakeTransport(), options=Options(refuse_paths=True)) as client:
        with pytest.raises(InvalidImage) as caught:
            client.embed([path])
        assert client.embed([b"photo", "data:,photo", {"bytes": b"photo", "path": "gone.jpg"}]).shape == (3, 8)
    assert caught.value.code == "path_refused"
    assert caught.value.reason.endswith(
        "neither an http(s) URL nor a data: URI, and paths are refused (Options.refuse_paths)"
    )


def test_pillow_takes_what_the_errors_advise():
    """The expressions in the errors for gray and RGBA arrays make pictures of the right size."""
    for shape in ((5, 6), (5, 6, 4), (5, 6, 1), (1, 5, 6), (4, 5, 6)):
        array = np.zeros(shape, np.uint8)
        assert read(Image.fromarray(eval(_for_pillow(array), {"array": array}))).startswith(b"P6\n6 5\n")


def test_large_file(tmp_path):
    """A file over the limit is refused before it is read."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(SourceError, match="1000000000000 bytes are over the limit"):
        read(path)


def test_closed_file():
    """A closed file object says what is wrong with it."""
    file = io.BytesIO(b"a")
    file.close()
    with pytest.raises(SourceError, match="ValueError") as caught:
        read(file)
    assert caught.value.code == "not_readable"
