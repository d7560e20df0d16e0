"""One file: its content is that of one moment, and its columns are read from it."""

from __future__ import annotations

import hashlib
import io
import os
import socket
from datetime import datetime, timezone

import pytest
from PIL import Image
from vitriton_search.index import photos
from vitriton_search.index.photos import UnusableFile, read_file, read_photo
from vitriton_search.index.scan import Found, look_at

MOST = 1_000_000
OLD_S = 1_600_000_000


def photo(path, data):
    """The columns of a file with a content that is not new."""
    path.write_bytes(data)
    os.utime(path, (OLD_S, OLD_S))
    (found,) = look_at([str(path)])
    return read_photo(found, MOST)


def encoded(form, size=(40, 30), **settings):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, form, **settings)
    return buffer.getvalue()


def exif(orientation, date, *, inner=True):
    made = Image.Exif()
    made[0x0112] = orientation
    if inner:
        made[0x8769] = {0x9003: date}
    else:
        made[0x0132] = date
    return made


def test_the_columns_of_a_file(tmp_path):
    """All that a row has of a file, besides the vector."""
    data = encoded("JPEG", exif=exif(1, "2025:01:02 03:04:05"))
    path = tmp_path / "a.jpg"
    assert photo(path, data).columns == {
        "id": str(path),
        "source": str(path),
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "modified": datetime.fromtimestamp(OLD_S, timezone.utc),
        "taken": datetime(2025, 1, 2, 3, 4, 5),
        "width": 40,
        "height": 30,
    }
    assert read_photo(look_at([str(path)])[0], MOST).data == data


@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_as_large_as_it_is_shown(tmp_path, orientation):
    """A camera that was turned writes so, and a program knows four such turns."""
    columns = photo(tmp_path / "a.jpg", encoded("JPEG", exif=exif(orientation, "2025:01:02 03:04:05"))).columns
    assert (columns["width"], columns["height"]) == ((30, 40) if 5 <= orientation <= 8 else (40, 30))


@pytest.mark.parametrize(
    ("date", "inner", "taken"),
    [
        ("2025:01:02 03:04:05\0", True, datetime(2025, 1, 2, 3, 4, 5)),
        ("2025:01:02 03:04:05", False, datetime(2025, 1, 2, 3, 4, 5)),
        ("0000:00:00 00:00:00", True, None),
        ("    :  :     :  :  ", True, None),
        ("2025-01-02", True, None),
        ("", True, None),
    ],
)
def test_dates(tmp_path, date, inner, taken):
    """A date is the camera's, or else the program's; a clock that was not set tells none."""
    columns = photo(tmp_path / "a.jpg", encoded("JPEG", exif=exif(1, date, inner=inner))).columns
    assert columns["taken"] == taken


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", encoded("PNG")[:20], encoded("JPEG")[:30], b"Exif" + bytes(100)], ids=range(5)
)
def test_what_is_no_image_is_sent_all_the_same(tmp_path, data):
    """The server says what is wrong with it."""
    read = photo(tmp_path / "a.jpg", data)
    assert read.data == data
    assert "error" not in read.columns
    assert "taken" not in read.columns


def test_damaged_exif_is_no_fault(tmp_path):
    """The picture is as it is."""
    data = encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    columns = photo(tmp_path / "a.jpg", data).columns
    assert columns["sha256"]
    assert columns.get("taken") is None


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_bomb_is_not_decoded(tmp_path):
    """The size that a header claims takes no memory."""
    header = encoded("PNG", (1, 1)).replace(b"\0\0\0\1\0\0\0\1", b"\0\1\0\0\0\1\0\0", 1)
    assert photo(tmp_path / "a.png", header).columns["bytes"] == len(header)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "it cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "it cannot be read: Is a directory"),
        (lambda path: path.symlink_to(path), "it cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (make_pipe, "it is no regular file"),
        (make_socket, "it cannot be read: No such device or address"),
        (lambda path: path.write_bytes(bytes(MOST + 1)), "it has 1000001 bytes, more than 1000000"),
    ],
    ids=["missing", "folder", "circle", "device", "pipe", "socket", "large"],
)
def test_what_cannot_be_used(tmp_path, monkeypatch, make, reason):
    """Nothing is waited for, and the reason becomes the error of the row."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.jpg"
    make(path)
    found = Found(str(path), 3, 5_000_000)
    read = read_photo(found, MOST)
    assert read.data is None
    assert read.columns == {
        "id": str(path),
        "source": str(path),
        "bytes": 3,
        "modified": datetime.fromtimestamp(5, timezone.utc),
        "error": reason,
    }


def test_a_file_that_does_not_stop_changing(tmp_path, monkeypatch):
    """It is read when it has stopped, and never half."""
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(1000))

    class Changing(photos.Settled):
        """Each time that its content has been read, there is another one of the same size."""

        def is_unchanged(self):
            path.write_bytes(os.urandom(1000))
            return super().is_unchanged()

    with monkeypatch.context() as patch:
        patch.setattr(photos, "Settled", Changing)
        with pytest.raises(UnusableFile, match="it changes while it is read"):
            read_file(str(path), MOST)
    assert read_file(str(path), MOST).data == path.read_bytes()


def test_a_file_that_has_just_been_written(tmp_path):
    """Its time says nothing until the clock has moved on; then it is read."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"new")
    assert read_file(str(path), MOST).data == b"new"


def test_a_url_is_left_to_the_client():
    """Nothing is known of it."""
    url = "https://example.com/a.jpg"
    assert read_photo(Found(url), MOST) == ({"id": url, "source": url}, None)
