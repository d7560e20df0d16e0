"""What is checked of a verification before torch and transformers are imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vitriton._console.server import ServerOptions
from vitriton._repository import disk

from vitriton_export._checkpoint import source as sources
from vitriton_export._errors import ExportError, OptionError
from vitriton_export._verify.exported import Exported, from_repository
from vitriton_export._verify.images import Folder
from vitriton_export._verify.options import VerifyOptions


def check(options: VerifyOptions) -> None:
    """Checks that images, model and reference are there; a server is not asked, and neither is the hub.

    Raises:
        OptionError: one of them is not there.
        InvalidOption: an option for the server is invalid.
        ExportError: the repository cannot be read.
    """
    if options.images is not None:
        Folder(Path(options.images), options.limit)
    if options.reference is not None:
        sources.find_folder(options.reference, options.revision, "reference")
    if isinstance(options.server, ServerOptions):
        options.server.transport().close()
    else:
        with read(options.folder, options.name) as exported:
            reference_model(options, exported)


@contextlib.contextmanager
def read(repository: Path, name: str | None) -> Iterator[Exported]:
    """Reads what an export says of itself; no other export changes the repository during the block.

    Raises:
        OptionError: there is no such export, or it has no weights yet.
        ExportError: the export cannot be read, or is being changed.
    """
    try:
        with disk.locked(repository, exclusive=False) if repository.is_dir() else contextlib.nullcontext():
            yield from_repository(repository, name)
    except disk.RepositoryBusy as exc:
        raise ExportError(str(exc)) from exc


def reference_model(options: VerifyOptions, exported: Exported) -> str:
    """Returns the hub id or the folder of the reference.

    Raises:
        OptionError: the folder that was exported is not there, and no other is named.
    """
    if options.reference is not None:
        return options.reference
    if exported.revision is not None:
        return exported.model_id
    recorded = str(exported.options.get("model", ""))
    if recorded and Path(recorded).expanduser().is_dir():
        return recorded
    where = f"{recorded}, which is not there" if recorded else f"a folder called {exported.model_id}"
    raise OptionError("reference", f"is needed: {exported.name} was exported from {where}; name the checkpoint")
