"""Files by their URIs."""

import pickle
import threading

import pytest
from typer.testing import CliRunner
from vitriton import VitritonError
from vitriton._console.inputs import SUFFIXES, find_inputs
from vitriton._errors import InvalidOption, Unreadable
from vitriton._storage import Span, Storage, is_remote, read_ahead
from vitriton.cli import app

pytest.importorskip("pyarrow")


@pytest.mark.parametrize(
    ("source", "remote"),
    [
        ("s3://bucket/a.jpg", True),
        ("GS://bucket", True),
        ("file:///a.jpg", True),
        ("https://example.com/a.jpg", False),
        ("http://example.com", False),
        ("data:image/png;base64,AA", False),
        ("/photos/a.jpg", False),
        ("photos://", True),
        ("c:/photos", False),
    ],
)
def test_what_is_a_uri_of_a_store(source, remote):
    """The client reads URLs of the web and paths itself."""
    assert is_remote(source) == remote


@pytest.fixture
def folder(tmp_path):
    """A folder with images at several depths, and what is none."""
    for name in ("b.jpg", "a 1.PNG", "z/c.webp", "z/y/d#?.jpg", "notes.txt", ".hidden.jpg", ".git/e.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


@pytest.mark.parametrize("recursive", [True, False])
def test_a_folder_of_a_store_is_like_one_of_a_disk(folder, recursive):
    """The same images in the same order, and the same are passed over."""
    store = find_inputs([f"file://{folder}/"], None, recursive=recursive, storage=Storage())
    disk = find_inputs([str(folder)], None, recursive=recursive)
    assert [source.removeprefix("file://") for source in store.sources] == disk.sources
    assert store.passed_over == disk.passed_over


def test_reading(folder):
    """A file is its bytes, or the reason why there are none."""
    storage = pickle.loads(pickle.dumps(Storage()))
    assert storage.read(f"file://{folder}/a%201.PNG", 100) == b"a 1.PNG"
    assert storage.read(f"{folder}/b.jpg", 100) == b"b.jpg"
    assert storage.read(f"file://{folder}/none.jpg", 100) == Unreadable("no such file", "not_found")
    assert storage.read(f"file://{folder}/b.jpg", 2) == Unreadable("5 bytes are over the limit of 2", "too_large")


def test_reading_a_part(folder):
    """The limit is for the part; one that is not all there is no image."""
    name = f"{folder}/b.jpg"
    assert Storage().read(name, 3, Span(1, 3)) == b".jp"
    assert Storage().read(name, 3, Span(1, 0)) == b""
    assert Storage().read(name, 3, Span(1, 4)) == Unreadable("4 bytes are over the limit of 3", "too_large")
    assert Storage().read(name, 100, Span(2, 10)) == Unreadable("7 bytes are missing", "truncated")


def test_a_library_of_fsspec_reads_what_pyarrow_does_not(folder):
    """Names of objects are as they are."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/photos/a%20b.jpg", b"an image")
    storage = Storage()
    assert storage.read("memory://photos/a%20b.jpg", 100) == b"an image"
    assert list(storage.find("memory://photos", SUFFIXES)) == ["memory://photos/a%20b.jpg"]
    assert (storage.kind("memory://photos"), storage.kind("memory://none")) == ("folder", None)


def test_a_scheme_that_nothing_reads():
    """The error names it."""
    with pytest.raises(InvalidOption, match="nothing that is installed here reads zzz://"):
        Storage().kind("zzz://bucket")
    with pytest.raises(VitritonError, match="does not exist"):
        find_inputs(["file:///none/at/all"], None, recursive=True, storage=Storage())


def test_frames_are_of_files_of_this_machine(folder, tmp_path):
    """FFmpeg reads no store, and must not."""
    arguments = [f"file://{folder}", "--every", "1s", "-o", str(tmp_path / "out.npy"), "--url", "localhost:1"]
    done = CliRunner().invoke(app, ["embed", *arguments])
    assert done.exit_code == 2
    assert "--every is for files of this machine and URLs; copy what is in a store first" in done.stderr


def test_reading_ahead():
    """Results come in order, a limited number ahead; an error comes in its place."""
    begun, gate = [], threading.Event()

    def read(number):
        begun.append(number)
        gate.wait(10)
        if number == 30:
            raise OSError("the store is away")
        return number * 10

    results = read_ahead(range(100), read, threads=4, ahead=8)
    gate.set()
    assert [next(results) for _ in range(30)] == list(range(0, 300, 10))
    assert max(begun) < 30 + 8
    with pytest.raises(OSError, match="the store is away"):
        next(results)
