"""The folder that Triton polls under `vitriton serve --watch`: links to the models that it should serve.

Triton polls its models one after the other, while an export changes several, so it could see an ensemble before its
steps and unload it. In this folder, changes come in an order that it can follow at any speed. And the interface for
loading models over the network, which Triton has in its other mode, stays closed.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vitriton._repository import disk

_PYCACHE = "__pycache__"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model to be served.

    Attributes:
        config: the text of its config.pbtxt; None for a model that is served as it is, whatever changes in it.
        versions: the versions that Triton should load.
        steps: the models and versions that an ensemble consists of; empty for others.
        leaving: the older versions of an ensemble. Triton may load them once more when their steps change, from a
            configuration that it has read before; their folders stay until they are unloaded.
    """

    config: str | None = None
    versions: frozenset[int] = frozenset()
    steps: frozenset[tuple[str, int]] = frozenset()
    leaving: frozenset[int] = frozenset()

    @property
    def folders(self) -> frozenset[int]:
        """The versions whose folders Triton sees."""
        return self.versions | self.leaving


View = Mapping[str, Model]


def newest_folder(repository: Path, name: str, model: Model) -> Path:
    """Returns the folder of an ensemble's newest version in the repository."""
    return repository / name / str(max(model.versions))


def version_folders(repository: Path, models: Iterable[tuple[str, Model]]) -> set[Path]:
    """Returns the version folders of the repository that a view links to."""
    return {repository / name / str(version) for name, model in models for version in model.folders}


class ViewFolder:
    """The folder of a view on disk.

    Args:
        repository: the repository that its links lead to.
        folder: the folder to make; its parent is private to this run, on the same file system.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self._repository = repository.resolve()
        self._folder = folder
        self._shown: dict[str, Model] = {}
        folder.mkdir()

    def show(self, view: View) -> None:
        """Makes the folder show `view`: a new model in one step; for an existing one, versions before the config."""
        for name in self._shown.keys() - view.keys():
            self._take_away(name)
        for name, model in view.items():
            shown = self._shown.get(name)
            if shown is None or (shown.config is None) != (model.config is None):
                self._take_away(name)
                self._add(name, model)
            elif shown != model:
                self._change(name, shown, model)
        self._shown = dict(view)

    def _add(self, name: str, model: Model) -> None:
        if model.config is None:
            (self._folder / name).symlink_to(self._repository / name)
            return
        with self._private() as private:
            made = private / name
            made.mkdir()
            (made / disk.CONFIG).write_text(model.config)
            for version in model.folders:
                self._link(made, name, version)
            made.rename(self._folder / name)

    def _change(self, name: str, shown: Model, model: Model) -> None:
        folder = self._folder / name
        for version in model.folders - shown.folders:
            self._link(folder, name, version)
        if model.config is not None and model.config != shown.config:
            with self._private() as private:
                (private / disk.CONFIG).write_text(model.config)
                (private / disk.CONFIG).replace(folder / disk.CONFIG)
        for version in shown.folders - model.folders:
            self._discard(folder / str(version))

    def _take_away(self, name: str) -> None:
        folder = self._folder / name
        if folder.is_symlink() or folder.exists():
            self._discard(folder)

    def _discard(self, path: Path) -> None:
        """Removes a path in one step."""
        with self._private() as private:
            path.rename(private / path.name)

    def _link(self, folder: Path, name: str, version: int) -> None:
        source, target = self._repository / name / str(version), folder / str(version)
        if not (source / "model.py").is_file():
            target.symlink_to(source)
            return
        # Only for python models, as ONNX Runtime requires external data to be really beside the graph.
        with self._private() as private:
            _mirror(source, private / str(version))
            (private / str(version)).rename(target)

    @contextlib.contextmanager
    def _private(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self._folder.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _mirror(source: Path, made: Path) -> None:
    """Mirrors a folder and its subfolders with links to its files.

    Python would write __pycache__ into a linked folder, which Triton would take for a change of the model: here, a file
    of that name prevents it.
    """
    made.mkdir()
    for entry in source.iterdir():
        if entry.name == _PYCACHE:
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link could lead to itself
            _mirror(entry, made / entry.name)
        else:
            (made / entry.name).symlink_to(entry)
    (made / _PYCACHE).touch()
