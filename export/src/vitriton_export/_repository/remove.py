"""Removes an export from a model repository: the ensembles first, then the steps that nothing needs any more."""

from __future__ import annotations

from pathlib import Path

from vitriton._console.paths import folder_fault
from vitriton._repository import disk, names

from vitriton_export._errors import ExportError, OptionError
from vitriton_export._repository.install import not_writable


def remove(repository: Path, name: str) -> list[str]:
    """Removes the models of an export.

    A running server that watches the repository uses the steps until its requests have ended, and then removes them.

    Args:
        repository: the folder of the models.
        name: the name that the export is served by.

    Returns:
        The names of the models that are gone, or will be when no server uses them.

    Raises:
        OptionError: there is no such repository or export.
        ExportError: vitriton did not write the models, or an export of that name is running.
    """
    if (fault := folder_fault(repository, "name the repository that holds the export")) is not None:
        raise OptionError("repository", fault)
    try:
        if name in disk.remove_abandoned(repository):
            raise ExportError(f"an export of {name} to {repository} is running; wait until it ends, or stop it")
        with disk.locked(repository, exclusive=True), disk.workspace(repository) as workspace:
            disk.sweep(repository, workspace)
            found = _ours(repository, name)
            journal = disk.read_journal(repository)
            for model in found:
                journal[model] = disk.versions(repository / model)
            disk.write_journal(repository, journal)
            for model in {names.ensemble_name(name, kind) for kind in names.KINDS} & set(found):
                (repository / model).rename(workspace / model)
            disk.sweep(repository, workspace)
    except disk.RepositoryBusy as exc:
        raise ExportError(str(exc)) from exc
    except OSError as exc:
        raise not_writable(repository, exc) from exc
    return found


def exports(repository: Path) -> list[str]:
    """Returns the names of the exports in a repository, in alphabetical order."""
    found = set()
    for model, config in disk.models(repository).items():
        ensemble = names.read_ensemble_name(model)
        if ensemble is not None and config is not None and disk.fingerprint(config) is not None:
            found |= {ensemble[0]} if config.HasField("ensemble_scheduling") else set()
    return sorted(found)


def _ours(repository: Path, name: str) -> list[str]:
    """Returns the models of an export that exist, after checking that vitriton wrote them."""
    found = [model for model in names.model_names(name) if (repository / model).is_dir()]
    if disk.removed(repository, found):
        there = exports(repository)
        listed = f"it has: {', '.join(there)}" if there else "it holds no exports"
        raise OptionError("name", f"{name} is not an export in {repository}; {listed}")
    for model in found:
        config = disk.read_config(repository / model)
        if config is None or disk.fingerprint(config) is None:
            raise ExportError(f"{repository / model} was not written by vitriton export; remove it by hand")
    return found
