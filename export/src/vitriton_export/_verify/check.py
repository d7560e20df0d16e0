"""What is checked of a verification before torch and transformers are imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitriton._console.server import ServerOptions
from vitriton._repository import disk
from vitriton._repository.complete import missing, stray
from vitriton._repository.names import ensemble_name
from vitriton._served.catalog import read_catalog
from vitriton._served.model import ModelInfo
from vitriton._wire.transport import Transport

from vitriton_export._checkpoint import source as sources
from vitriton_export._errors import ExportError
from vitriton_export._verify.exported import Exported, check_complete, from_repository
from vitriton_export._verify.options import VerifyOptions


def check(options: VerifyOptions) -> None:
    """Checks that inputs, model and reference are there: on this machine, and then on the server. The hub is not asked.

    Raises:
        OptionError: one of them is not there.
        InvalidOption: an option for the server is invalid.
        ExportError: the repository cannot be read, the server has no such model, or the reference is not known.
        ClientError: the server does not answer.
    """
    options.inputs()
    if options.reference is not None:
        sources.find_folder(options.reference, options.revision, "reference")
    if isinstance(options.server, ServerOptions):
        with contextlib.closing(options.server.transport()) as transport:
            served = find(transport, options.name, options.timeout_s)
        if served.source is not None:  # or else an error tells what its configuration lacks
            reference_model(options, served.name, served.source, served.revision)
    else:
        with read(options.folder, options.name) as (exported, *_):
            reference_model(options, exported.name, exported.model_id, exported.revision, exported.options)


@contextlib.contextmanager
def read(repository: Path, name: str | None) -> Iterator[tuple[Exported, ...]]:
    """Reads what the towers of an export say of themselves; no other export changes the repository during the block.

    Raises:
        OptionError: there is no such export, or it has no weights yet.
        ExportError: the export cannot be read, or is being changed.
    """
    try:
        with disk.locked(repository, exclusive=False) if repository.is_dir() else contextlib.nullcontext():
            yield from_repository(repository, name)
    except disk.RepositoryBusy as exc:
        raise ExportError(str(exc)) from exc


def check_files(repository: Path, towers: Sequence[Exported]) -> None:
    """Compares the files of an export with its manifests, and reads all of its graphs for that.

    Raises:
        ExportError: a part is missing or is not the exported one; the text names it.
    """
    for exported in towers:
        for kind in exported.kinds:
            fault = missing(repository, ensemble_name(exported.name, kind), read_graphs=True)
            check_complete(repository, exported.name, fault)


def check_versions(repository: Path, name: str) -> None:
    """Checks that an export has no version beside those that its ensembles use.

    Raises:
        ExportError: it has one; the text names it.
    """
    if (version := stray(repository, name)) is not None:
        raise ExportError(
            f"{name} in {repository} is not as it was exported: no ensemble uses version {version}, and Triton may "
            f"load it all the same; remove {repository / version}"
        )


def find(transport: Transport, name: str | None, timeout_s: float) -> ModelInfo:
    """Finds an export on a server; without a name, the only one.

    Raises:
        ExportError: the server has no such export, or several.
        ClientError: the server does not answer.
    """
    models = read_catalog(transport, timeout_s, () if name is None else (name,)).models
    usable = [model for model in models if any(output.ready for output in model.outputs)]
    if len(usable) == 1:
        return usable[0]
    if name is not None or not usable:
        reasons = [f"{output.model}: {output.reason or output.state}" for model in models for output in model.outputs]
        raise ExportError(
            f"the server at {transport.address} has no {name or 'model of `vitriton export`'} that is ready"
            + (f" ({'; '.join(reasons)})" if reasons else "")
            + "; see `vitriton models`"
        )
    names = ", ".join(model.name for model in usable)
    raise ExportError(f"the server at {transport.address} has several models; choose one with --model: {names}")


def reference_model(
    options: VerifyOptions, name: str, model_id: str, revision: str | None, told: Mapping[str, Any] | None = None
) -> str:
    """Returns the hub id or the folder of the reference.

    Args:
        options: the options of the verification.
        name: the name of the export.
        model_id: the source of the export: a hub id, or the name of a folder.
        revision: the commit on the hub; None for a folder.
        told: the options of the export, where they are known.

    Raises:
        ExportError: the folder that was exported is not there, and no other is named.
    """
    if options.reference is not None:
        return options.reference
    if revision is not None:
        return model_id
    recorded = str((told or {}).get("model", ""))
    if recorded and Path(recorded).expanduser().is_dir():
        return recorded
    where = f"{recorded}, which is not there" if recorded else f"a folder called {model_id}"
    raise ExportError(f"{name} was exported from {where}; name the checkpoint with --reference")
