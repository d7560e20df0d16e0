"""Exports that are killed: the repository holds what it held, or the whole new model; the next export tidies up."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import marked
from vitriton import Client
from vitriton._repository import disk
from vitriton_export import ExportError
from vitriton_export._repository import install
from vitriton_export._repository.remove import remove
from vitriton_server import TritonServer
from vitriton_server._rollout.plan import scan

PARTS = ("_preprocess", "_pooled_encoder", "_unpooled_encoder", "_pooled", "_unpooled")
IMAGE = Path(__file__).parents[2] / "examples" / "photos" / "cat.jpg"
# Children come from a process without threads: what gRPC left in this one does not survive a fork.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["vitriton_export._processors.processor", "vitriton_export._repository.remove"])


def killed_at(change: int, work: Callable[..., object], *arguments: object) -> bool:
    """Does `work` in a child that is killed just before its n-th renaming; False when it ended before that."""
    child = CHILDREN.Process(target=_kill_at, args=(change, work, *arguments))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _kill_at(change: int, work: Callable[..., object], *arguments: object) -> None:
    left = [change]

    def kill(event: str, arguments: tuple[object, ...]) -> None:
        # renameat2, which exchanges, is called by way of ctypes
        if event == "os.rename" or (event == "ctypes.dlsym" and arguments[1] == "renameat2"):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    work(*arguments)


def served(repository: Path) -> dict[str, int]:
    """Ensemble → version, of all that can be loaded; fails when one lacks a version of a step."""
    models, problems = scan(repository)
    assert not problems
    for name, model in models.items():
        for step, version in model.steps:
            assert version in models[step].versions, f"{name} lacks version {version} of {step}"
            content = {path.name for path in (repository / step / str(version)).iterdir()}
            assert content & {"model.onnx", "model.py"}, f"version {version} of {step} is empty"
    return {name: max(model.versions) for name, model in models.items() if model.steps}


def leftovers(repository: Path) -> list[Path]:
    return [path for path in repository.parent.iterdir() if path.name.startswith(".")]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With an export that nobody touches."""
    marked.export(tmp_path / "r", "other", 9)
    return tmp_path / "r"


def test_a_first_export_that_is_killed(repository: Path) -> None:
    """At whatever step: each ensemble that is there is whole, and the next export leaves no trace of it."""
    killed = 0
    while killed_at(killed + 1, marked.export, repository, "new", 1):
        killed += 1
        found = served(repository)
        assert {name for name in found if name.startswith("other")} == {"other_pooled", "other_unpooled"}
        assert marked.export(repository, "new", 2) in (1, 2)
        assert {folder.name for folder in repository.iterdir()} == {f"{n}{p}" for n in ("new", "other") for p in PARTS}
        assert all(len(disk.versions(folder)) == 1 for folder in repository.iterdir())
        assert not leftovers(repository)
        remove(repository, "new")
        assert {folder.name for folder in repository.iterdir()} == {f"other{p}" for p in PARTS}
    assert killed > 5


@pytest.mark.long
def test_a_replacement_that_is_killed(repository: Path) -> None:
    """At whatever step: each ensemble is the old or the new one, with its own steps; the next export tidies up."""
    marked.export(repository, "m", 1)
    killed = 0
    while killed_at(killed + 1, marked.export, repository, "m", 2):
        killed += 1
        assert set(served(repository)) == {"m_pooled", "m_unpooled", "other_pooled", "other_unpooled"}
        version = marked.export(repository, "m", 3)
        assert served(repository)["m_pooled"] == served(repository)["m_unpooled"] == version
        assert all(disk.versions(repository / f"m{part}") == {version} for part in PARTS)
        assert not leftovers(repository)
        assert not (repository / disk.JOURNAL).exists()
    assert killed > 10


def test_a_removal_that_is_killed(repository: Path) -> None:
    """At whatever step: what is left is whole, and removing it again removes all."""
    killed = 0
    while True:
        marked.export(repository, "m", 1)
        if not killed_at(killed + 1, remove, repository, "m"):
            break
        killed += 1
        assert {"other_pooled", "other_unpooled"} <= set(served(repository))
        with contextlib.suppress(ExportError):  # there is none any more
            remove(repository, "m")
        marked.export(repository, "again", 1)
        assert not [folder for folder in repository.iterdir() if folder.name.startswith("m_")]
        remove(repository, "again")
        assert not leftovers(repository)
    assert killed > 5


@pytest.mark.parametrize("change", [pytest.param(3, marks=pytest.mark.long), 8])
def test_what_a_killed_export_leaves_is_served(repository: Path, change: int) -> None:
    """A Triton that takes the repository as it is starts, and answers with the old export or the new one."""
    marked.export(repository, "m", 1)
    assert killed_at(change, marked.export, repository, "m", 2)
    with TritonServer(repository) as server:
        for name, marks in (("m", {1, 2}), ("other", {9})):
            with Client(server.grpc_address, model=name) as client:
                assert marked.mark_of(client.embed(marked.IMAGE)) in marks
                assert marked.mark_of(client.embed(marked.IMAGE, pool=False)) in marks


def test_an_export_keeps_its_name_from_being_removed(repository: Path) -> None:
    """As long as it runs; afterwards the name can go, and others could all the time."""
    with install.staging_folder(repository, 0, "other"):
        with pytest.raises(ExportError, match=r"an export of other to .* is running; wait until it ends"):
            remove(repository, "other")
        marked.export(repository, "third", 1)
        remove(repository, "third")
    remove(repository, "other")
    assert list(repository.iterdir()) == []


def test_what_was_removed_while_it_is_used(repository: Path) -> None:
    """Its steps stay until the server lets go of them; until then the name is neither there nor free."""
    marked.export(repository, "m", 1)
    with disk.in_use(repository):
        assert remove(repository, "m") == [f"m{part}" for part in PARTS]
        with pytest.raises(ExportError, match=r"name m is not an export in .*; it has: other$"):
            remove(repository, "m")
        deployment = marked.deployment("m", fingerprint="v1-another")
        with pytest.raises(ExportError, match=r"m was removed from .*, and a running server still uses m_preprocess, "):
            install.check_target(repository, deployment)
    install.tidy(repository)
    install.check_target(repository, deployment)
    assert {folder.name for folder in repository.iterdir()} == {f"other{part}" for part in PARTS}


def test_removing_what_is_not_there(repository: Path, tmp_path: Path) -> None:
    """The error names what there is; what somebody else wrote is left alone."""
    with pytest.raises(ExportError, match=r"name m is not an export in .*; it has: other$"):
        remove(repository, "m")
    with pytest.raises(ExportError, match=r"repository .*nowhere does not exist"):
        remove(tmp_path / "nowhere", "m")
    (repository / "mine_pooled").mkdir()
    with pytest.raises(ExportError, match="mine_pooled was not written by vitriton export; remove it by hand"):
        remove(repository, "mine")


@contextlib.contextmanager
def _exporting(checkpoint: Path, repository: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An export, from the moment on that its staging folder is there."""
    command = [Path(sys.executable).with_name("vitriton"), "export", checkpoint, "--repository", repository]
    arguments = [str(part) for part in command]
    before = set(leftovers(repository))
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as exporting:
        try:
            while not set(leftovers(repository)) - before:
                assert exporting.poll() is None, exporting.communicate()
                time.sleep(0.01)
            yield exporting
        finally:
            exporting.kill()


def _export(checkpoint: Path, repository: Path) -> float:
    """Exports; returns how many seconds it had a staging folder."""
    with _exporting(checkpoint, repository) as exporting:
        started = time.monotonic()
        errors = exporting.communicate()[1]
    assert exporting.returncode == 0, errors
    return time.monotonic() - started


def test_a_terminated_export_tidies_up(tiny_vit_checkpoint: Path, tmp_path: Path) -> None:
    """SIGTERM ends it with 143, and its staging folder is gone."""
    with _exporting(tiny_vit_checkpoint, tmp_path / "r") as exporting:
        exporting.terminate()
        errors = exporting.communicate(timeout=60)[1]
    assert exporting.returncode == 143
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_real_exports_killed_at_random_moments(tiny_vit_checkpoint: Path, tmp_path: Path) -> None:
    """Kill -9, ten times: a server starts on what is left, and answers as before or with the whole new model."""
    repository = tmp_path / "r"
    duration_s = _export(tiny_vit_checkpoint, repository)
    with TritonServer(repository) as server, Client(server.grpc_address, model="tiny-vit") as client:
        pooled, tokens = client.embed(IMAGE), client.embed(IMAGE, pool=False)
    for seed in range(10):
        moment_s = duration_s * random.Random(seed).uniform(0.0, 1.1)
        with _exporting(tiny_vit_checkpoint, repository) as exporting, contextlib.suppress(subprocess.TimeoutExpired):
            exporting.wait(moment_s)
        print(f"killed after {moment_s:.1f} s of {duration_s:.1f} s: {served(repository)}, {leftovers(repository)}")
        with TritonServer(repository) as server, Client(server.grpc_address, model="tiny-vit") as client:
            assert abs(client.embed(IMAGE) - pooled).max() < 1e-5
            assert abs(client.embed(IMAGE, pool=False) - tokens).max() < 1e-5
    _export(tiny_vit_checkpoint, repository)
    assert not leftovers(repository)
    assert {len(disk.versions(folder)) for folder in repository.iterdir()} == {1}
