"""Changing a model repository so that whoever reads it, at any moment, finds models that belong together."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vitriton_export._deployment import TENSOR, Deployment, read_fingerprint, read_max_batch_size, read_output_type
from vitriton_export._errors import ExportError
from vitriton_export._fingerprint import NOT_EXPORTED

# What Triton's python backend (2.51.0) passes on to its processes: it puts the path unquoted on a shell's command line,
# and decodes it as ASCII. `vitriton serve` refuses other paths.
_SERVABLE = re.compile(r"[A-Za-z0-9/._+=@,:~%-]*")

_LOCK = ".lock"
_REPLACED = ".replaced"


def check_target(repository: Path, deployment: Deployment) -> None:
    """Makes sure that the deployment's models may be written: none of that name are there, or they go together with it.

    Raises:
        ExportError: they belong to somebody else, or to another embedding space, or could not be replaced one by one.
    """
    name = deployment.name
    present = [repository / model for model in deployment.every_model_name if (repository / model).exists()]
    found = {folder: read_fingerprint(folder / "config.pbtxt") for folder in present}
    for folder, fingerprint in found.items():
        if fingerprint is None:
            raise ExportError(f"{folder} is there and was not written by vitriton export; use another --name")
        if fingerprint not in (deployment.fingerprint, NOT_EXPORTED):
            raise ExportError(
                f"{repository} already serves another embedding space as {name} (fingerprint {fingerprint}, this "
                f"export has {deployment.fingerprint}), and their vectors must not be mixed; use another --name, or "
                f"remove the folders of {name}"
            )
    # The models are replaced one after the other, and Triton refuses an ensemble whose steps take smaller batches.
    served = [folder for folder, fingerprint in found.items() if fingerprint != NOT_EXPORTED]
    sizes = {read_max_batch_size(folder / "config.pbtxt") for folder in served} - {deployment.max_batch_size}
    if sizes:
        raise ExportError(
            f"{repository} already serves {name} with --max-batch-size {sizes.pop()}, and its models can only be "
            f"replaced by ones with the same; use another --name, or remove the folders of {name}"
        )
    types = {
        read_output_type(folder / "config.pbtxt") for folder in served if folder.name != deployment.preprocess_name
    }
    if others := types - {deployment.output_type}:
        raise ExportError(
            f"{repository} already serves {name} with --output-dtype {str(others.pop()).lower()}, and its models can "
            f"only be replaced by ones with the same; use another --name, or remove the folders of {name}"
        )


def without_weights(repository: Path) -> list[str]:
    """The names of exports of which only the committed text files are there: a server cannot load them."""
    return sorted(
        {
            folder.name.removesuffix(f"_{kind}")
            for kind in TENSOR
            for folder in repository.glob(f"*_{kind}")
            if read_fingerprint(folder / "config.pbtxt") == NOT_EXPORTED
        }
    )


def is_servable(repository: Path) -> bool:
    """Whether Triton's python backend can start its processes for a repository at that path."""
    return _SERVABLE.fullmatch(str(repository.resolve())) is not None


def not_writable(repository: Path, refused: OSError) -> ExportError:
    """The error for a file system that refuses; raise it `from refused`."""
    parent = repository.resolve().parent
    if refused.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = f"get the right to write to it and to {parent}, where the export is staged, or "
    elif refused.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"make room in {parent}, or "
    else:
        advice = ""
    return ExportError(
        f"repository {repository} cannot be written to: {refused.strerror or refused}; {advice}choose another "
        "--repository"
    )


@contextlib.contextmanager
def staging_folder(repository: Path, needed_bytes: int) -> Iterator[Path]:
    """An empty folder beside the repository, on the same file system, that is gone afterwards.

    Not inside: Triton takes every folder in a repository for a model. What a killed export left is removed first.

    Raises:
        ExportError: the folder cannot be made, the repository is there and cannot be written to, or the disk is too
            full for `needed_bytes`.
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
        if repository.exists():
            with tempfile.TemporaryFile(dir=repository):  # a refusal must not wait until the work is done
                pass
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as exc:
        raise not_writable(repository, exc) from exc
    with (staging / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def install(staging: Path, repository: Path, deployment: Deployment) -> None:
    """Puts the staged models into the repository, what is needed before what needs it.

    One export at a time: what the target may be replaced by is looked at once more under a lock. When a step fails,
    those before it are undone.

    Raises:
        ExportError: as `check_target`.
        OSError: the file system refuses; the repository is as it was.
    """
    repository.mkdir(parents=True, exist_ok=True)
    _sync(staging)
    folder = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        check_target(repository, deployment)
        with contextlib.ExitStack() as undo:
            for name in deployment.model_names:
                source, target = staging / name, repository / name
                if target.exists():
                    _exchange(source, target)
                    undo.callback(_exchange, target, source)
                else:
                    source.rename(target)
                    undo.callback(target.rename, source)
            undo.pop_all()
        os.fsync(folder)
    finally:
        os.close(folder)


def _sync(folder: Path) -> None:
    """Makes sure that files are on the disk before they are renamed: else a power failure could leave empty ones."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Removes staging folders whose process is gone: its lock went with it."""
    for folder in parent.glob(f"{prefix}*"):
        if any(folder.glob(f"*{_REPLACED}")):  # the only copy of a model that was to be replaced: somebody must look
            continue
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
    replaced = source.with_name(f"{source.name}{_REPLACED}")
    target.rename(replaced)
    try:
        source.rename(target)
    except OSError:
        replaced.rename(target)
        raise
    replaced.rename(source)
