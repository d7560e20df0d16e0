"""Exports that tests serve or look at: each is made once for all tests and workers, and kept in `.cache/exports`.

An export is known by the hash of what makes it: the code of exporter and client, the checkpoint, the options, and the
versions of the libraries. Those who test the exporter itself call `export_model`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from support.checkpoints import CACHE

_ROOT = Path(__file__).parents[2]
_SOURCES = (_ROOT / "export" / "src", _ROOT / "client" / "src")
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "pillow", "torch", "transformers")
_KEPT_S = 24 * 3600
_FOREVER = -1  # to filelock
_LINKED_BYTES = 10_000_000  # weights are never changed in place; smaller files might be, by a test


def export_all(checkpoints: Mapping[str, Path], repository: Path) -> Path:
    """Has several exported, by name; what another worker is making is waited for last."""
    waiting = dict(checkpoints)
    for patience_s in (0, _FOREVER):
        for name, checkpoint in list(waiting.items()):
            with contextlib.suppress(Timeout):
                export(checkpoint, repository, patience_s=patience_s, name=name)
                del waiting[name]
    return repository


def export(checkpoint: Path, repository: Path, *, patience_s: float = _FOREVER, **options: Any) -> Path:
    """Has a checkpoint exported to a repository, which may have others, and returns the repository.

    Raises:
        Timeout: another process is making the export, and that takes longer than `patience_s`.
    """
    name = options.setdefault("name", checkpoint.name)
    made = CACHE / "exports" / f"{name}-{_key(checkpoint, options)}"
    made.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(made.with_name(f"{made.name}.lock"), patience_s):
        if not made.is_dir():
            _make(checkpoint, made, options)
        os.utime(made)
    copy(made, repository)
    return repository


def copy(made: Path, folder: Path) -> None:
    """Copies exports to a folder, which may have others."""
    shutil.copytree(made, folder, copy_function=_link_or_copy, dirs_exist_ok=True)


def _make(checkpoint: Path, made: Path, options: dict[str, Any]) -> None:
    from vitriton_export import ExportOptions, export_model

    from support import graphs

    tidy(made.parent)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder, graphs.kept():
        repository = Path(folder) / "repository"
        export_model(ExportOptions(model=str(checkpoint), repository=repository, **options))
        repository.rename(made)


def tidy(folder: Path) -> None:
    """Removes what no run has used for a day."""
    for old in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another worker's, which has gone
            if time.time() - old.stat().st_mtime > _KEPT_S:
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()


def _key(checkpoint: Path, options: dict[str, Any]) -> str:
    digest = hashlib.sha256(makers())
    digest.update(repr(sorted(options.items())).encode())
    for path in _files(checkpoint):
        digest.update(_file_digest(path))
    return digest.hexdigest()[:16]


@functools.cache
def makers() -> bytes:
    """A hash of the code of exporter and client, and of the versions of the libraries."""
    digest = hashlib.sha256()
    for library in _LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    for path in (path for folder in _SOURCES for path in _files(folder)):
        digest.update(_file_digest(path))
    return digest.digest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return path.name.encode() + hashlib.file_digest(file, "sha256").digest()


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).stat().st_size < _LINKED_BYTES:
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
