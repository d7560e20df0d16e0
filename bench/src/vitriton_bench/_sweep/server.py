"""Starts a server for the measured part of a repository."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitriton._repository.names import Kind, model_names
from vitriton_server import TritonServer, WatchPolicy


@contextlib.contextmanager
def serve(repository: Path, name: str, kinds: Sequence[Kind], folder: Path) -> Iterator[TritonServer]:
    """Serves only some ensembles of an export and their steps, without the watch's probes.

    Args:
        repository: the model repository with the export.
        name: the name of the export.
        kinds: the ensembles.
        folder: the folder to make, for links.

    """
    # The watch's probes would compute during measurements.
    with TritonServer(view(repository, name, kinds, folder), watch=WatchPolicy(canary_interval_s=0)) as server:
        yield server


def view(repository: Path, name: str, kinds: Sequence[Kind], folder: Path) -> Path:
    """A folder with links to some ensembles of an export and their steps, so that nothing else is served."""
    folder.mkdir(parents=True)
    for model in model_names(name, kinds):
        (folder / model).symlink_to((repository / model).resolve())
    return folder
