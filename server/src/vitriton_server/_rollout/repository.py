"""Checks of a model repository before Triton reads it, for mistakes that Triton explains badly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitriton._console.paths import folder_fault
from vitriton._repository import disk
from vitriton._repository.complete import NO_WEIGHTS, broken_exports, by_export
from vitriton._repository.disk import FINGERPRINT
from vitriton._repository.names import read_ensemble_name

from vitriton_server._errors import RepositoryError
from vitriton_server._rollout.plan import scan

_NAMED = 3  # the folders that an error names
# The python backend of 2.51.0 puts the path unquoted on a shell's command line and decodes it as ASCII.
_PASSES = re.compile(r"[A-Za-z0-9/._+=@,:~%-]*")


def check(repository: Path, *, may_be_empty: bool = False, skip_broken: bool = False) -> list[str]:
    """Returns the names of the models in a repository.

    Args:
        repository: the folder of the models.
        may_be_empty: whether the repository may be empty, since models may be added later.
        skip_broken: whether folders that are no models and exports with missing files may be there, to be left out.

    Raises:
        RepositoryError: the repository is missing or empty, or holds a folder that is not a model or an export without
        its weights.
    """
    advice = f"make a repository with `vitriton export MODEL --repository {repository}`, or name another"
    if (fault := folder_fault(repository, advice)) is not None:
        raise RepositoryError(fault)
    if not _PASSES.fullmatch(str(repository.resolve())):
        raise RepositoryError(
            f"{repository.resolve()} has a character that Triton's python backend cannot pass on to its "
            "processes (a space, a quote, a letter outside ASCII); move the repository, or mount it elsewhere"
        )
    try:
        folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    except OSError as exc:
        raise RepositoryError(f"{repository} cannot be read: {exc.strerror}") from exc
    _check_level(repository)
    if not folders and not may_be_empty:
        raise RepositoryError(
            f"{repository} holds no models; fill it with `vitriton export MODEL --repository {repository}`, or name "
            "another"
        )
    if skip_broken:
        return [folder.name for folder in folders]
    if folders and not any(map(_is_model, folders)):
        raise RepositoryError(
            f"{repository} is not a model repository: none of its folders is a model ({_few(folders)}); name the "
            "folder that `vitriton export` writes to"
        )
    for folder in folders:
        if not _is_model(folder):
            raise RepositoryError(
                f"{repository} holds {folder.name}, which is not a model (no config.pbtxt, no version folder), and "
                "Triton refuses a repository that holds one; remove it or move it elsewhere"
            )
    _check_exports(repository)
    return [folder.name for folder in folders]


def has_unfilled_export(repository: Path) -> bool:
    """Whether a repository holds, beside complete exports, one without weights, as a checkout's model_repository/ does.

    Nobody has exported that model yet, so nothing is broken: a server leaves it out. Exports that lack something else
    are not left out without `skip_broken`.
    """
    if not repository.is_dir():
        return False
    configs = disk.models(repository)
    broken = broken_exports(repository, configs)
    prints = {name: disk.fingerprint(config) for name, config in configs.items() if config is not None}
    complete = {
        name
        for name, config in configs.items()
        if config is not None and name not in broken and prints[name] and config.HasField("ensemble_scheduling")
    }
    return bool(complete and broken) and all(prints.get(name) == disk.NOT_EXPORTED for name in broken)


def builds_engines(repository: Path) -> bool:
    """Whether a model in a repository has TensorRT build an engine when it is loaded for the first time."""
    configs = [disk.read_config(folder) for folder in repository.iterdir() if folder.is_dir()]
    return any(
        accelerator.name == "tensorrt"
        for config in configs
        if config is not None
        for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator
    )


def _check_level(repository: Path) -> None:
    """Refuses a model's own folder or version folder in place of the repository."""
    for folder in (repository.resolve(), repository.resolve().parent):
        if (folder / disk.CONFIG).is_file():
            raise RepositoryError(
                f"{repository} belongs to one model, {folder.name}; name the folder of all models: {folder.parent}"
            )


def _few(folders: Sequence[Path]) -> str:
    """The names of some of the folders."""
    names = ", ".join(folder.name for folder in folders[:_NAMED])
    return names if len(folders) <= _NAMED else f"{names}, …"


def _is_model(folder: Path) -> bool:
    return (folder / "config.pbtxt").is_file() or any(
        entry.is_dir() and entry.name.isdigit() for entry in folder.iterdir()
    )


def _check_exports(repository: Path) -> None:
    broken = broken_exports(repository, disk.models(repository))
    if not broken:
        return
    names = sorted({(read_ensemble_name(ensemble) or (ensemble, None))[0] for ensemble in broken})
    listed = "; ".join(f"{name}: {fault}" for name, fault in by_export(broken).items())
    was_whole = any(fault != NO_WEIGHTS for fault in broken.values())
    copy = "if the repository was copied here, copy the folder again; else " if was_whole else ""
    remedy = " and ".join(f"`vitriton export MODEL --name {name} --repository {repository}`" for name in names)
    rest = ", name another repository, or serve the other models with --skip-broken"
    raise RepositoryError(
        f"{repository} has exports that are not complete or were changed: {listed}; {copy}run {remedy} (MODEL: its "
        f"Hugging Face id or a local checkpoint){rest if scan(repository)[0] else ', or name another repository'}"
    )


class Served(NamedTuple):
    """What a server serves under one name.

    Attributes:
        name: the name of an export, or of a model that `vitriton export` did not make.
        details: the kinds, the precision, the pooling and the fingerprint of an export; empty for other models.
    """

    name: str
    details: tuple[str, ...] = ()


def describe(repository: Path, models: Iterable[str]) -> list[Served]:
    """Describes ready models: a line for each export in place of its ensembles and steps, and one for each other model.

    Args:
        repository: the folder of the models.
        models: the names of the models that are ready.
    """
    configs = {name: disk.read_config(repository / name) for name in models}
    ours = {name: config for name, config in configs.items() if config is not None and disk.fingerprint(config)}
    steps = {step for config in ours.values() for step, _ in disk.steps(config, repository)}
    exports: dict[str, list[str]] = {}
    for ensemble in sorted(name for name, config in ours.items() if config.HasField("ensemble_scheduling")):
        name, kind = read_ensemble_name(ensemble) or (ensemble, "")
        exports.setdefault(name, []).append(kind)
    found = [Served(name, _details(ours, name, kinds)) for name, kinds in exports.items()]
    others = [Served(name) for name in configs if name not in ours and name not in steps]
    return sorted([*found, *others])


def _details(configs: Mapping[str, Any], name: str, kinds: Sequence[str]) -> tuple[str, ...]:
    parameters = configs[f"{name}_{kinds[0]}" if kinds[0] else name].parameters
    shown = [parameters[key].string_value for key in ("precision", "pooling") if key in parameters]
    *first, last = kinds
    listed = f"{', '.join(first)} and {last}" if first else last
    return (listed, *shown, parameters[FINGERPRINT].string_value)
