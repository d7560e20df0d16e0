"""Changing a model repository so that whoever reads it, at any moment, finds models that belong together."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vitriton_export._deployment import TENSOR, read_fingerprint
from vitriton_export._errors import ExportError
from vitriton_export._fingerprint import NOT_EXPORTED

_LOCK = ".lock"


def check_target(repository: Path, name: str, fingerprint: str) -> None:
    """Makes sure that the models called `name` may be written: there are none, or they are of the same embedding space.

    Raises:
        ExportError: they belong to somebody else, or to another embedding space.
    """
    for kind in TENSOR:
        folder = repository / f"{name}_{kind}"
        if not folder.exists():
            continue
        found = read_fingerprint(folder / "config.pbtxt")
        if found is None:
            raise ExportError(f"{folder} is there and was not written by vitriton export; use another --name")
        if found not in (fingerprint, NOT_EXPORTED):
            raise ExportError(
                f"{repository} already serves another embedding space as {name} (fingerprint {found}, this export has "
                f"{fingerprint}), and their vectors must not be mixed; use another --name, or remove the "
                f"folders of {name}"
            )


def without_weights(repository: Path) -> list[str]:
    """The names of exports of which only the committed text files are there: a server cannot load them."""
    suffix = f"_{next(iter(TENSOR))}"
    return sorted(
        folder.name.removesuffix(suffix)
        for folder in repository.glob(f"*{suffix}")
        if read_fingerprint(folder / "config.pbtxt") == NOT_EXPORTED
    )


@contextlib.contextmanager
def staging_folder(repository: Path, needed_bytes: int) -> Iterator[Path]:
    """An empty folder beside the repository, on the same file system, that is gone afterwards.

    Not inside: Triton takes every folder in a repository for a model. What a killed export left is removed first.

    Raises:
        ExportError: the folder cannot be made, or the disk is too full for `needed_bytes`.
    """
    parent = repository.resolve().parent
    prefix = f".{repository.resolve().name}.staging-"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent, prefix)
        free = shutil.disk_usage(parent).free
        if free < needed_bytes:
            raise ExportError(
                f"{parent} has {free / 1e6:.0f} MB free and the export needs {needed_bytes / 1e6:.0f} MB; make room or "
                "choose another --repository"
            )
        if repository.exists() and repository.stat().st_dev != parent.stat().st_dev:
            raise ExportError(
                f"{repository} is a mount point, so models cannot be renamed into it from beside it; mount the folder "
                f"above, or use a folder inside, such as {repository / 'models'}"
            )
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as exc:
        raise ExportError(f"{parent} cannot be written to: {exc.strerror}; choose another --repository") from exc
    with (staging / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def install(staging: Path, repository: Path, names: list[str]) -> None:
    """Renames the staged models into the repository, in this order; what they replace stays in `staging`."""
    repository.mkdir(parents=True, exist_ok=True)
    for name in names:
        source, target = staging / name, repository / name
        if target.exists():
            _exchange(source, target)
        else:
            source.rename(target)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Removes staging folders whose process is gone: its lock went with it."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or just being made


def _exchange(source: Path, target: Path) -> None:
    """Swaps two folders in one step, so that there is no moment without the target (renameat2, Linux 3.15)."""
    at_cwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        done = libc.renameat2(at_cwd, os.fsencode(source), at_cwd, os.fsencode(target), rename_exchange)
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):  # what file systems answer that cannot exchange
            raise OSError(number, os.strerror(number), str(target))
    replaced = source.with_name(f"{source.name}.replaced")
    target.rename(replaced)
    source.rename(target)
