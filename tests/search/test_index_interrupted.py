"""`vitriton search index` is interrupted at any moment and in any way: the next run does what is left."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from client.conftest import write_model
from search.indexing import index, rows, start, summary, write_images
from support.steps import go_on
from vitriton_search.stores import open_store
from vitriton_search.stores.store import StoreNotFound

FEW = 300


@pytest.fixture(scope="module")
def address(subprocesses, tmp_path_factory):
    """A Triton with `tiny`."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "tiny_pooled", fingerprint="space-1", max_batch_size=16)
    with TritonServer(repository) as running:
        yield running.grpc_address


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with 300 images, of which three are bad."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, FEW)
    return folder


@pytest.fixture(scope="module")
def undisturbed(address, photos, tmp_path_factory):
    """What a store holds after a run that nothing interrupts."""
    store = tmp_path_factory.mktemp("stores") / "whole.lance"
    document = summary(index(address, photos, "--model", "tiny", "--store", store, "--json"), exit_code=3)
    assert (document["embedded"], document["failed"]) == (FEW - 3, 3)
    return rows(store)


def size(store):
    try:
        with open_store(str(store)) as opened:
            return len(opened)
    except StoreNotFound:
        return 0


def kill_at_five_moments(address, photos, store, number, batch):
    """Begins a run again and again, and kills it at five moments, some of them in the middle of a write."""
    for part in (0.02, 0.2, 0.4, 0.6, 0.8):
        before = size(store)
        with start(address, photos, "--model", "tiny", "--store", store, batch=batch) as process:
            go_on(process, max(part * number, before + 1))
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert size(store) > before


@pytest.mark.long
def test_killed(address, photos, undisturbed, tmp_path):
    """After five kills, the store is that of an undisturbed run, and what was written was not embedded again."""
    store = tmp_path / "cut.lance"
    kill_at_five_moments(address, photos, store, FEW, 20)
    before = size(store)
    document = summary(index(address, photos, "--model", "tiny", "--store", store, "--json"), exit_code=3)
    assert document["unchanged"] == before
    assert document["rows"] == FEW
    assert rows(store) == undisturbed


@pytest.mark.long
def test_killed_with_thousands_of_files(address, tmp_path):
    """The same with 5,000 files, of which one in a hundred is bad, and larger batches."""
    write_images(tmp_path / "photos", 5000)
    whole, cut = tmp_path / "whole.lance", tmp_path / "cut.lance"
    assert index(address, tmp_path / "photos", "--model", "tiny", "--store", whole).exit_code == 3
    kill_at_five_moments(address, tmp_path / "photos", cut, 5000, 250)
    document = summary(index(address, tmp_path / "photos", "--store", cut, "--json"), exit_code=3)
    assert (document["rows"], document["failed"]) == (5000, 50)
    assert rows(cut) == rows(whole)


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_interrupted(address, photos, undisturbed, tmp_path, number, exit_code):
    """Ctrl-C ends it with a line that says how to go on; all that was embedded is written.

    tests/client/test_embed_resume.py has both signals for `vitriton embed`, which ends in the same way.
    """
    store = tmp_path / "cut.lance"
    with start(address, photos, "--model", "tiny", "--store", store) as process:
        go_on(process, 40)
        process.send_signal(number)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert all(line.isdigit() for line in shown.splitlines())  # of the next batches: the command itself prints nothing
    assert errors.splitlines()[-1] == (
        f"interrupted; what was done before is in {store}; repeat the command to continue"
    )
    assert index(address, photos, "--store", store).exit_code == 3
    assert rows(store) == undisturbed


def test_the_server_ends_in_the_middle(address, photos, undisturbed, tmp_path, tmp_path_factory):
    """The run ends with what it has, and goes on with another server."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("other")
    write_model(repository, "tiny_pooled", fingerprint="space-1", max_batch_size=4)
    store = tmp_path / "cut.lance"
    with (
        TritonServer(repository, exit_timeout_s=0) as other,
        start(other.grpc_address, photos, "--model", "tiny", "--store", store, "--timeout", "5") as process,
    ):
        go_on(process, 40)
        other.stop()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: ")
    assert errors.endswith(f"; what was done before is in {store}; repeat the command to continue\n")
    assert index(address, photos, "--store", store).exit_code == 3
    assert rows(store) == undisturbed


def test_two_at_once(address, photos, undisturbed, tmp_path):
    """Both are right, or one is refused; the store is that of one run."""
    store = tmp_path / "both.lance"
    runs = [start(address, photos, "--model", "tiny", "--store", store) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda process: process.communicate(timeout=240)[1], runs))
    codes = sorted(process.returncode for process in runs)
    assert codes in ([3, 3], [1, 3]), said
    assert rows(store) == undisturbed


def test_images_that_change_while_they_are_indexed(address, tmp_path):
    """Whatever was caught, the next run makes the store what the files are."""
    folder, store = tmp_path / "photos", tmp_path / "store.lance"
    write_images(folder, 100)
    with start(address, folder, "--model", "tiny", "--store", store, batch=5) as process:
        go_on(process, 5)
        for each in range(0, 100, 3):
            path = folder / f"{each % 7}" / f"{each:05}.png"
            path.write_bytes((folder / "1" / "00001.png").read_bytes())
        process.communicate(timeout=120)
    assert index(address, folder, "--store", store).exit_code in (0, 3)
    index(address, folder, "--model", "tiny", "--store", tmp_path / "new.lance")
    assert rows(store) == rows(tmp_path / "new.lance")


@contextmanager
def small_disk(folder, kilobytes):
    """A disk of some kilobytes; a function gives it more."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [8, 100, 250])
def test_full_disk(address, photos, undisturbed, tmp_path, kilobytes):
    """A disk that takes no more ends the run with one line; with more room, the next one goes on."""
    with small_disk(tmp_path / "disk", kilobytes) as enlarge:
        store = tmp_path / "disk" / "store.lance"
        with start(address, photos, "--model", "tiny", "--store", store) as process:
            shown, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert all(line.isdigit() for line in shown.splitlines())
        assert errors.splitlines()[-1].startswith("error: ")
        assert "No space left on device" in errors
        assert "Traceback" not in errors
        enlarge()
        assert index(address, photos, "--model", "tiny", "--store", store).exit_code == 3
        assert rows(store) == undisturbed
