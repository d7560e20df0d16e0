"""Changes a model repository so that readers find models that belong together at any moment.

The rules that servers rely on are in `vitriton._repository.disk`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitriton._repository import complete, disk, names
from vitriton._repository.disk import NOT_EXPORTED, REPLACED

from vitriton_export._errors import ExportError, OptionError
from vitriton_export._repository import deployment as _deployment
from vitriton_export._repository import existing
from vitriton_export._repository.deployment import VERSION, Deployment, read_fingerprint

# The paths that Triton's python backend (2.51.0) can pass on to its processes: it puts them unquoted on a shell's
# command line, and decodes them as ASCII. `vitriton serve` refuses other paths.
_SERVABLE = re.compile(r"[A-Za-z0-9/._+=@,:~%-]*")


def check_name(repository: Path, name: str, *, max_batch_size: int, precision: str) -> dict[str, Any]:
    """Checks that an export may have this name, as far as the repository tells without the model.

    Returns:
        The configurations of the models that the export would replace, by name.

    Raises:
        ExportError: vitriton did not write them, their precision is another, or clients would break.
    """
    there = [model for model in names.model_names(name) if (repository / model).exists()]
    if there and disk.removed(repository, there):
        raise ExportError(
            f"{name} was removed from {repository}, and a running server still uses {', '.join(there)}; try again when "
            "it has unloaded them, or use another --name"
        )
    exported = {}
    for model in there:
        config = disk.read_config(repository / model)
        fingerprint = None if config is None else disk.fingerprint(config)
        if config is None or fingerprint is None:
            raise ExportError(f"{repository / model} exists and was not written by vitriton export; use another --name")
        if fingerprint != NOT_EXPORTED:
            exported[model] = config
    for config in exported.values():
        _check_known(config, repository, name, max_batch_size, precision)
    return exported


def check_target(repository: Path, deployment: Deployment, weights: str | None = None) -> None:
    """Checks that the deployment's models may be written: the names are free, or their models are compatible with it.

    Args:
        repository: the folder of the models.
        deployment: the planned export.
        weights: the hash of its weights, for the error; None where it is unknown.

    Raises:
        ExportError: vitriton did not write them, they have another embedding space, or clients would break.
    """
    name = deployment.name
    planned = _deployment.configs(deployment, int(VERSION))
    exported = check_name(repository, name, max_batch_size=deployment.max_batch_size, precision=deployment.precision)
    for model, config in exported.items():
        if (fingerprint := disk.fingerprint(config)) != deployment.fingerprint:
            raise ExportError(
                f"{repository} already serves another embedding space as {name}, and their vectors must not be mixed: "
                f"{_changes(repository, deployment, weights)}; its fingerprint is {fingerprint}, and this export has "
                f"{deployment.fingerprint}; {_otherwise(repository, name)}"
            )
        if model in planned:
            _check_tensors(config, planned[model], repository, name)


def without_weights(repository: Path) -> list[str]:
    """Returns the names of exports that have only their committed text files: a server cannot load them."""
    return sorted(
        {
            ensemble[0]
            for folder in repository.glob("*")
            if (ensemble := names.read_ensemble_name(folder.name)) is not None
            and read_fingerprint(folder / disk.CONFIG) == NOT_EXPORTED
        }
    )


def is_servable(repository: Path) -> bool:
    """Whether Triton's python backend can start its processes for a repository at that path."""
    return _SERVABLE.fullmatch(str(repository.resolve())) is not None


def not_writable(repository: Path, refused: OSError) -> ExportError:
    """Returns the error for a repository that cannot be written to; raise it `from refused`."""
    parent = repository.resolve().parent
    if refused.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = f"get write permission for it and for {parent}, where the export is staged, or "
    elif refused.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"make room in {parent}, or "
    else:
        advice = ""
    return ExportError(
        f"repository {repository} cannot be written to: {refused.strerror or refused}; {advice}choose another "
        "--repository"
    )


def check_writable(repository: Path) -> None:
    """Checks, before any work, that an export can be written: to the repository, and beside it, where it is staged.

    Raises:
        OptionError: the repository cannot be written to.
    """
    target = repository.resolve()
    for folder in (target, target.parent):
        there = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 - raises nothing
        fault = errno.ENOTDIR if not there.is_dir() else None if os.access(there, os.W_OK | os.X_OK) else errno.EACCES
        if fault is not None:
            refused = OSError(fault, f"{there}: {os.strerror(fault)}")
            raise OptionError("repository", str(not_writable(repository, refused)).removeprefix("repository "))


def tidy(repository: Path) -> None:
    """Removes leftovers of removals and killed exports that no server uses.

    Raises:
        ExportError: the repository cannot be written to, or another command is changing it.
    """
    if not (repository / disk.JOURNAL).exists():
        return
    try:
        with disk.workspace(repository) as workspace, disk.locked(repository, exclusive=True):
            disk.sweep(repository, workspace)
    except OSError as exc:
        raise not_writable(repository, exc) from exc
    except disk.RepositoryBusy as exc:
        raise ExportError(str(exc)) from exc


@contextlib.contextmanager
def staging_folder(repository: Path, needed_bytes: int, name: str = "") -> Iterator[Path]:
    """Makes an empty folder beside the repository, on the same file system, and removes it afterwards.

    Leftovers of a killed export, there and in the repository, are removed first.

    Args:
        repository: the repository to write to.
        needed_bytes: the size of the export, in bytes.
        name: the name of the export, which cannot be removed meanwhile.

    Raises:
        ExportError: the folder cannot be made, the repository exists and cannot be written to, or the disk is too
            full for `needed_bytes`.
    """
    parent = repository.resolve().parent
    with contextlib.ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            disk.remove_abandoned(repository)
            if repository.exists():
                with tempfile.TemporaryFile(dir=repository):  # a refusal must not wait until the work is done
                    pass
            staging = stack.enter_context(disk.workspace(repository, name))
            _check_room(repository, parent, needed_bytes)  # last, as a read-only folder has no room either
            if (repository / disk.JOURNAL).exists():
                with disk.locked(repository, exclusive=True):
                    disk.sweep(repository, staging)
        except OSError as exc:
            raise not_writable(repository, exc) from exc
        except disk.RepositoryBusy as exc:
            raise ExportError(str(exc)) from exc
        yield staging


def install(staging: Path, repository: Path, *deployments: Deployment) -> int:
    """Puts the staged models of all towers of an export into the repository, each after those that it needs.

    The models that exist are served until the ensembles, at the end, name the new versions. One export runs at a time:
    the target is checked again under a lock. When a step fails, the steps before it are undone; when the process is
    killed, the next export removes what no ensemble names.

    Returns:
        The version of the installed models.

    Raises:
        ExportError: the target is unsuitable, as for `check_target`.
        OSError: the file system refuses; the repository is unchanged.
    """
    repository.mkdir(parents=True, exist_ok=True)
    _sync(staging)  # before the lock, as it may take long
    try:
        with disk.locked(repository, exclusive=True):
            return _install(staging, repository, deployments)
    except disk.RepositoryBusy as exc:
        raise ExportError(str(exc)) from exc


def _otherwise(repository: Path, name: str) -> str:
    return f"use another --name, or `vitriton remove {name} --repository {repository}` first"


def _changes(repository: Path, deployment: Deployment, weights: str | None) -> str:
    folders = [repository / names.ensemble_name(deployment.name, kind) for kind in names.KINDS]
    configs = {folder: disk.read_config(folder) for folder in folders}
    manifests = (
        complete.read_manifest(folder / str(max(disk.served_versions(config, folder), default=0)))
        for folder, config in configs.items()
        if config is not None
    )
    there = next((each for each in manifests if each.get("fingerprint") != deployment.fingerprint), {})
    return existing.changes(there, deployment, weights)


def _check_known(config: Any, repository: Path, name: str, max_batch_size: int, precision: str) -> None:
    """Checks a replacement: both versions are loaded for a while, and clients still rely on the old configuration."""
    what, advice = f"{repository} already serves {name} with", _otherwise(repository, name)
    if config.max_batch_size > max_batch_size:
        raise ExportError(
            f"{what} --max-batch-size {config.max_batch_size}, which clients rely on, and {max_batch_size} is less; "
            f"{advice}"
        )
    there = config.parameters["precision"].string_value if "precision" in config.parameters else precision
    if there != precision:
        raise ExportError(
            f"{what} --precision {there}, and {precision} is another embedding space, whose vectors must not be mixed "
            f"with those; {advice}"
        )


def _check_tensors(config: Any, planned: Any, repository: Path, name: str) -> None:
    for role in ("input", "output"):
        old, new = (list(getattr(each, role)) for each in (config, planned))
        if old != new:
            text = "; ".join(" ".join(str(tensor).split()) for tensor in old)
            raise ExportError(
                f"{repository} already serves {name} with another {role} of {config.name} ({text}); "
                f"{_otherwise(repository, name)}"
            )


def _check_room(repository: Path, parent: Path, needed_bytes: int) -> None:
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


def _install(staging: Path, repository: Path, deployments: Sequence[Deployment]) -> int:
    for deployment in deployments:
        check_target(repository, deployment)
    disk.sweep(repository, staging)
    present = {name: disk.versions(repository / name) for name in _deployment.model_names(deployments)}
    version = _next_version(repository, present)
    for deployment in deployments:
        _number(staging, deployment, version)
    journal = disk.read_journal(repository)
    for name, found in present.items():
        journal[name] = journal.get(name, set()) | found | {version}
    disk.write_journal(repository, journal)
    try:
        with contextlib.ExitStack() as undo:
            for name in present:
                _put(staging / name, repository / name, version, undo)
            undo.pop_all()
        for name in present:
            journal[name].discard(version)
        disk.write_journal(repository, journal)
        _sync_folder(repository)
    finally:
        with contextlib.suppress(OSError):  # the journal has it, and the next export tries again
            disk.sweep(repository, staging)
    return version


def _next_version(repository: Path, present: dict[str, set[int]]) -> int:
    """Returns one more than the highest version; those of a placeholder do not count, as it is replaced as a whole."""
    exported = [
        found for name, found in present.items() if read_fingerprint(repository / name / disk.CONFIG) != NOT_EXPORTED
    ]
    return 1 + max((version for found in exported for version in found), default=0)


def _number(staging: Path, deployment: Deployment, version: int) -> None:
    """Gives the staged models their version number."""
    _deployment.write_configs(deployment, staging, version)
    for name in deployment.model_names:
        (staging / name / VERSION).rename(staging / name / str(version))
        _sync(staging / name / disk.CONFIG)


def _sync(path: Path) -> None:
    """Flushes a file, or all files in a folder, to the disk before it is renamed.

    Without this, a power failure could leave empty files.
    """
    for each in [path, *path.rglob("*")]:
        if each.is_file():
            with each.open("rb") as file:
                os.fsync(file.fileno())


def _put(source: Path, target: Path, version: int, undo: contextlib.ExitStack) -> None:
    """Puts one model into the repository: as a whole, or as a new version of the existing one."""
    config = disk.read_config(target)
    if config is None:
        source.rename(target)
        undo.callback(target.rename, source)
    elif not _has_fixed_versions(config):
        _exchange(source, target)
        undo.callback(_exchange, target, source)
    else:
        folder = target / str(version)
        (source / str(version)).rename(folder)
        undo.callback(folder.rename, source / str(version))
        _exchange(source / disk.CONFIG, target / disk.CONFIG)
        undo.callback(_exchange, source / disk.CONFIG, target / disk.CONFIG)
        _sync_folder(target)


def _has_fixed_versions(config: Any) -> bool:
    """Whether a new version can go beside the old one; not for a placeholder or an export without fixed versions."""
    fixed = config.version_policy.HasField("all") or config.version_policy.HasField("specific")
    return fixed and disk.fingerprint(config) != NOT_EXPORTED


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(source: Path, target: Path) -> None:
    """Swaps two files or folders in one step, so that the target always exists (renameat2, Linux 3.15)."""
    at_cwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        done = libc.renameat2(at_cwd, os.fsencode(source), at_cwd, os.fsencode(target), rename_exchange)
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):  # the errors of file systems that cannot exchange
            raise OSError(number, os.strerror(number), str(target))
    _exchange_by_turns(source, target)


def _exchange_by_turns(source: Path, target: Path) -> None:
    if target.is_file():  # one rename replaces a file, and the old one can be written again
        replaced = target.read_bytes()
        source.rename(target)
        source.write_bytes(replaced)
        return
    aside = source.with_name(f"{source.name}{REPLACED}")
    target.rename(aside)
    try:
        source.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(source)
