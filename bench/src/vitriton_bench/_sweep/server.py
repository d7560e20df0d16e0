"""The part of a repository that is measured, and the server that is started for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitriton._repository.names import Kind, model_names
from vitriton_server import TritonServer, WatchPolicy

from vitriton_bench._errors import BenchError


@contextlib.contextmanager
def serve(repository: Path, name: str, kinds: Sequence[Kind], folder: Path) -> Iterator[TritonServer]:
    """Serves some ensembles of an export and their steps, and nothing else, without the watch's own questions.

    Args:
        repository: the model repository with the export.
        name: the name of the export.
        kinds: the ensembles.
        folder: a folder to be made, for links.

    Raises:
        BenchError: the repository has no such export.
    """
    # The watch's questions would compute while others are measured.
    with TritonServer(view(repository, name, kinds, folder), watch=WatchPolicy(canary_interval_s=0)) as server:
        yield server


def view(repository: Path, name: str, kinds: Sequence[Kind], folder: Path) -> Path:
    """A folder with links to some ensembles of an export and their steps, so that nothing else is served.

    Raises:
        BenchError: the repository has no such export.
    """
    folder.mkdir(parents=True)
    for model in model_names(name, kinds):
        source = repository / model
        if not (source / "config.pbtxt").is_file():
            raise BenchError(f"{repository} has no model {model}; export it, or name another --repository")
        (folder / model).symlink_to(source.resolve())
    return folder
