"""The model repository on disk, as `vitriton export` and `vitriton serve` must agree on it.

An ensemble of `vitriton export` names the version of each of its steps, and its version_policy names its own version. A
new graph goes into a version folder beside the old one; renaming the ensemble's config.pbtxt switches to it. So a
reader finds models that belong together at any moment.

The journal lists versions that may be obsolete. One is removed when no ensemble names it and no server uses it: a
server that watches the repository holds a shared lock on each version folder that it has given to Triton. A process
that changes the repository holds an exclusive lock on its folder; one that reads it as a whole holds a shared lock. The
locks are flock's, which end with their process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitriton._errors import VitritonError

_LOG = logging.getLogger("vitriton")

CONFIG = "config.pbtxt"
# the copy of `vitriton.preprocessing` beside the first step's model.py: a folder, or a file in older exports
PREPROCESSING = "vitriton_preprocessing"
FINGERPRINT = "fingerprint"  # a parameter of every exported model
NOT_EXPORTED = "not-exported"  # the fingerprint if there are text files but no weights
LATEST = -1  # a step's version in an ensemble: the latest one

JOURNAL = ".vitriton.json"  # a file, because Triton takes every folder for a model
LOCK = ".lock"  # in a workspace
LOCK_S = 30.0  # a repository is locked only while files are renamed
_LOCK_POLL_S = 0.02  # flock waits either for ever or not at all
REPLACED = ".replaced"  # the suffix of a folder in a workspace that is the only copy of a model


class RepositoryBusy(VitritonError):  # noqa: N818 - it says what is, not what went wrong
    """Another process is changing the repository."""


def read_config(folder: Path) -> Any | None:
    """A model's config.pbtxt as a ModelConfig message; None if it is missing or invalid."""
    try:
        return parse_config((folder / CONFIG).read_text())
    except (OSError, UnicodeDecodeError):
        return None


def parse_config(text: str) -> Any | None:
    """The ModelConfig message in the text of a config.pbtxt; None if it is invalid."""
    # protobuf takes longer to import than everything that may not need it
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError:
        return None


def fingerprint(config: Any) -> str | None:
    """The fingerprint in a configuration; None if `vitriton export` did not write it."""
    return str(config.parameters[FINGERPRINT].string_value) if FINGERPRINT in config.parameters else None


def versions(folder: Path) -> set[int]:
    """The versions of a model, complete or not: folders whose names are numbers to Triton."""
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return set()
    return {int(name) for name in names if name.isdigit() and not (len(name) > 1 and name.startswith("0"))}


def served_versions(config: Any, folder: Path) -> set[int]:
    """The versions of a model that Triton loads, by its version_policy."""
    present = versions(folder)
    policy = config.version_policy
    if policy.HasField("specific"):
        return present & set(policy.specific.versions)
    if policy.HasField("all"):
        return present
    return set(sorted(present)[-max(1, policy.latest.num_versions) :])


def steps(config: Any, repository: Path) -> frozenset[tuple[str, int]]:
    """The models of an ensemble, and the version of each; empty if the model is no ensemble."""
    found = set()
    for step in config.ensemble_scheduling.step:
        version = int(step.model_version)
        if version == LATEST:
            version = max(versions(repository / step.model_name), default=LATEST)
        found.add((step.model_name, version))
    return frozenset(found)


def models(repository: Path) -> dict[str, Any | None]:
    """The configuration of every folder in a repository, by name, in alphabetical order."""
    folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    return {folder.name: read_config(folder) for folder in folders}


# Locks


@contextlib.contextmanager
def locked(repository: Path, *, exclusive: bool, timeout_s: float = LOCK_S) -> Iterator[None]:
    """Holds the repository's lock: exclusive to change it, shared to read it as a whole.

    Raises:
        RepositoryBusy: another process holds the lock for longer than `timeout_s`.
        OSError: the folder cannot be opened.
    """
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    deadline_s = time.monotonic() + timeout_s
    folder = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _try_lock(folder, mode):
            if time.monotonic() >= deadline_s:
                raise RepositoryBusy(f"{repository} is being changed by another command; try again when it has ended")
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(folder)


def _try_lock(folder: int, mode: int) -> bool:
    try:
        fcntl.flock(folder, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        if mode == fcntl.LOCK_EX:
            raise  # a file system without locks can still be read
    return True


class Uses:
    """The version folders that a server has given to Triton, locked against removal."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}

    def add(self, folders: Iterable[Path]) -> None:
        """Locks these folders as well. A missing one, or one on a file system without locks, is left out."""
        for folder in set(folders) - self._held.keys():
            with contextlib.suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    os.close(descriptor)
                    raise
                self._held[folder] = descriptor

    def keep(self, folders: Iterable[Path]) -> None:
        """Releases all other folders."""
        for folder in self._held.keys() - set(folders):
            os.close(self._held.pop(folder))


@contextlib.contextmanager
def in_use(repository: Path) -> Iterator[None]:
    """Locks all present versions against removal, as long as a server reads them all."""
    uses = Uses()
    with contextlib.suppress(OSError):
        uses.add(folder / str(version) for folder in repository.iterdir() for version in versions(folder))
    try:
        yield
    finally:
        uses.keep(())


@contextlib.contextmanager
def workspace(repository: Path, purpose: str = "") -> Iterator[Path]:
    """An empty folder beside the repository, on the same file system, which is removed afterwards.

    It is not inside, because Triton takes every folder in a repository for a model. Workspaces of killed processes are
    removed first.

    Args:
        repository: the repository to put the folder beside.
        purpose: the purpose of the folder, for `remove_abandoned`.
    """
    parent = repository.resolve().parent
    remove_abandoned(repository)
    folder = Path(tempfile.mkdtemp(prefix=_prefix(repository), dir=parent))
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(purpose)
            lock.flush()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(repository: Path) -> list[str]:
    """Removes the workspaces whose process has ended, and with it their lock; returns the purposes of the others."""
    purposes = []
    for folder in repository.resolve().parent.glob(f"{_prefix(repository)}*"):
        if any(folder.glob(f"*{REPLACED}")):  # the only copy of a model that was being replaced: a person must look
            continue
        try:
            with (folder / LOCK).open("r+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    purposes.append(lock.read())
                    continue
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # just being made, or not ours to remove
    return purposes


def _prefix(repository: Path) -> str:
    return f".{repository.resolve().name}.staging-"


# Obsolete versions


def read_journal(repository: Path) -> dict[str, set[int]]:
    """The versions of each model that may be removed once they are unused; empty if there are none."""
    try:
        document = json.loads((repository / JOURNAL).read_text())
        return {str(name): {int(version) for version in found} for name, found in document["versions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def removed(repository: Path, names: Iterable[str]) -> bool:
    """Whether an export is removed: its models are gone, or will go as soon as no server uses them."""
    journal = read_journal(repository)
    for name in names:
        folder = repository / name
        config, present = read_config(folder), versions(folder)
        goes = bool(present) and present <= journal.get(name, set())
        if folder.is_dir() and (not goes or config is None or steps(config, repository)):
            return False
    return True


def write_journal(repository: Path, entries: Mapping[str, set[int]]) -> None:
    """Replaces the journal in one step, or removes it if there are no entries. The caller holds the exclusive lock."""
    path = repository / JOURNAL
    found = {name: sorted(entries[name]) for name in sorted(entries) if entries[name]}
    if not found:
        path.unlink(missing_ok=True)
        return
    written = path.with_name(f"{JOURNAL}.new")
    with written.open("w") as file:
        file.write(json.dumps({"format": 1, "versions": found}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def sweep(repository: Path, workspace: Path) -> None:
    """Removes the versions in the journal that are unused. The caller holds the exclusive lock.

    Each leaves the repository in one step, because Triton refuses an incomplete version folder.

    Args:
        repository: the repository to clean up.
        workspace: the folder that removed versions are moved to, and that is removed with them.
    """
    entries = read_journal(repository)
    if not entries:
        return
    configs = models(repository)
    if any(config is None and (repository / name / CONFIG).exists() for name, config in configs.items()):
        _LOG.warning("nothing is tidied up in %s: it holds a config.pbtxt that cannot be read", repository)
        return
    used = needed(repository, configs)
    for name, candidates in entries.items():
        folder = repository / name
        present = versions(folder)
        candidates &= present
        removed = _take_out(folder, candidates - used.get(name, set()), present, workspace)
        candidates -= removed
    write_journal(repository, entries)


def needed(repository: Path, configs: Mapping[str, Any | None]) -> dict[str, set[int]]:
    """The versions of each model that ensembles name, and the ensembles' own, of those whose configuration is known."""
    found: dict[str, set[int]] = {}
    for name, config in configs.items():
        named = frozenset() if config is None else steps(config, repository)
        for step, version in named:
            found.setdefault(step, set()).add(version)
        if named:
            found.setdefault(name, set()).update(served_versions(config, repository / name))
    return found


def _take_out(folder: Path, superfluous: set[int], present: set[int], workspace: Path) -> set[int]:
    """Moves unused versions of a model out of the repository, and the model with its last version."""
    with contextlib.ExitStack() as stack:
        free = {version for version in superfluous if _is_free(folder / str(version), stack)}
        if free and free == present:
            folder.rename(_unused(workspace, folder.name))
            return free
        for version in free:
            (folder / str(version)).rename(_unused(workspace, f"{folder.name}.{version}"))
    return free


def _is_free(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Whether no server uses a version folder; if so, none can start to until the stack closes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unused(workspace: Path, name: str) -> Path:
    return Path(tempfile.mkdtemp(dir=workspace)) / name
