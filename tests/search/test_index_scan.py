"""What is there, and how a store names it."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from vitriton_search.index.scan import Found, folders_among, inside, is_gone, look_at, modified_us
from vitriton_search.sources import is_url, path_of, source_of

ODD_NAMES = (
    b"new\nline.jpg",
    b"\xff\xfe.jpg",
    b"a\\xff.jpg",
    "🦜 größe.jpg".encode(),
    b'it\'s "quoted".jpg',
    b"100% #t=1?.jpg",
    b"file:.jpg",
    b" .jpg",
    b"\x1b[31m.jpg",
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_is_found_by_its_name_in_the_store(tmp_path, name):
    """Every name that a file can have is valid Unicode in a store, and leads back to the file."""
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"here")
    source = source_of(str(path))
    assert source.encode().decode() == source
    found = path_of(source)
    assert found is not None
    assert Path(found).read_bytes() == b"here"


def test_names_differ():
    """No two files have one name, whatever bytes they are of."""
    paths = [os.fsdecode(b"/photos/" + name) for name in ODD_NAMES]
    assert len({source_of(path) for path in paths}) == len(paths)
    assert source_of(os.fsdecode(b"/\xff")) == "file:///%FF"


def test_names_do_not_depend_on_the_folder(tmp_path, monkeypatch):
    """A relative path is that of one file; `..` after a link leads where the file system says."""
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "there" / "deep")
    monkeypatch.chdir(tmp_path)
    assert source_of("a.jpg") == f"{tmp_path}/a.jpg"
    assert source_of("./there//a.jpg") == f"{tmp_path}/there/a.jpg"
    assert source_of("link/a.jpg") == f"{tmp_path}/link/a.jpg"
    assert source_of("link/../a.jpg") == f"{tmp_path}/there/a.jpg"


@pytest.mark.parametrize("text", ["http://a/b.jpg", "HTTPS://a/b.jpg", "data:image/png;base64,AA=="])
def test_urls(text):
    """A URL has no file."""
    assert is_url(text)
    assert path_of(text) is None
    assert look_at([text]) == [Found(text)]


def test_looking(tmp_path):
    """An image is there once, with its size and time; one that cannot be looked at is there, too."""
    (tmp_path / "a.jpg").write_bytes(b"123")
    os.utime(tmp_path / "a.jpg", ns=(0, 1_500_000_999))
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    names = [
        f"{tmp_path}/{name}" for name in ("a.jpg", "./a.jpg", "broken.jpg", "link.jpg", "null\0.jpg", "a/../b\0.jpg")
    ]
    assert look_at(names) == [
        Found(f"{tmp_path}/a.jpg", 3, 1_500_000),
        Found(f"{tmp_path}/broken.jpg"),
        Found(f"{tmp_path}/link.jpg", 3, 1_500_000),
        Found(f"file://{tmp_path}/null%00.jpg"),
        Found(f"file://{tmp_path}/b%00.jpg"),
    ]


def test_folders(tmp_path, monkeypatch):
    """Only folders are searched for files that are gone."""
    (tmp_path / "a.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert folders_among([".", "a.jpg", "https://example.com/", "nowhere"]) == (str(tmp_path),)
    assert inside(["/x", "/a"])("/a/b/c.jpg")
    assert inside(["/"])("/a.jpg")
    assert not inside(["/a"])("/ab/c.jpg")
    assert not inside(["/"])("https://a/b.jpg")


def test_gone(tmp_path):
    """A file is gone if it does not exist, and not if a link leads nowhere or nobody may look."""
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    assert is_gone(f"{tmp_path}/nowhere.jpg")
    assert is_gone(f"{tmp_path}/a.jpg/below.jpg")
    assert not is_gone(f"{tmp_path}/a.jpg")
    assert not is_gone(f"{tmp_path}/broken.jpg")
    assert not is_gone(f"{tmp_path}/{'x' * 5000}.jpg")
    assert not is_gone("https://example.com/a.jpg")


def test_times_of_a_damaged_disk():
    """They are within the years that a date can have, and do not end the run."""
    for time_ns in (-(2**63), -1, 0, 2**63 - 1):
        datetime(1970, 1, 1) + timedelta(microseconds=modified_us(time_ns))
    datetime(1970, 1, 1) + timedelta(microseconds=modified_us(-(10**30)))
    datetime(1970, 1, 1) + timedelta(microseconds=modified_us(10**30))
    assert modified_us(1_500_000_999) == 1_500_000
