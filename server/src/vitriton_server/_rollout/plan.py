"""The next view of a watched repository. Pure except for `scan`, which reads a repository.

A version of a step is added before the ensemble that names it, and removed after it. So each ensemble has its steps at
any moment, and a response comes from one export alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from vitriton._repository import disk
from vitriton._repository.complete import NO_WEIGHTS, broken_exports, by_export
from vitriton._repository.names import model_names, read_ensemble_name

from vitriton_server._rollout.view import Model, View

Version = tuple[str, int]  # the name and the version of a model


def scan(repository: Path) -> tuple[View, dict[str, str]]:
    """Returns the models of a repository. The caller holds its lock.

    Of exports, only complete ensembles and the versions of steps that they name are served; other models as they are.

    Returns:
        The models, and the reason for each that cannot be served.
    """
    configs = disk.models(repository)
    found: dict[str, Model] = {}
    exported = {name for name, config in configs.items() if config is not None and disk.fingerprint(config)}
    broken = broken_exports(repository, configs)
    theirs = {part for each in broken if (told := read_ensemble_name(each)) for part in model_names(told[0])}
    problems = {name: f"{fault}; {_remedy(fault)}" for name, fault in by_export(broken).items()}
    for name, config in configs.items():
        if name in broken or (config is None and name in theirs):
            continue
        steps = frozenset() if config is None else disk.steps(config, repository)
        if name not in exported:
            if config is not None or disk.versions(repository / name):
                found[name] = Model(steps=steps)
            else:
                problems[name] = "it is not a model: no config.pbtxt, no version folder"
        elif config is not None and config.HasField("ensemble_scheduling"):
            own = frozenset(disk.served_versions(config, repository / name))
            found[name] = Model(config=_text(repository, name), versions=own, steps=steps)
    for step, versions in _named(found.values()).items():
        if step in exported:
            found[step] = Model(config=_text(repository, step), versions=frozenset(versions))
    return found, problems


def ensembles(view: View) -> dict[str, Model]:
    """Returns the ensembles of exports in a view, in alphabetical order."""
    return {name: model for name, model in sorted(view.items()) if model.steps and model.config is not None}


def next_view(
    current: View, wanted: View, retiring: Mapping[Version, frozenset[Version]], ready: Collection[Version]
) -> View:
    """Returns the next view on the way to `wanted`.

    Args:
        current: the view that is shown.
        wanted: the view to show in the end.
        retiring: the ensembles that are no longer wanted and still have requests, with the steps of each.
        ready: the versions that Triton has loaded.
    """
    view = {name: model for name, model in wanted.items() if model.config is None}
    for name, model in wanted.items():
        if model.config is None or not model.steps:
            continue
        if all(step in ready for step in model.steps if _is_exported(step, wanted)):
            view[name] = model
        elif name in current:
            view[name] = current[name]
        if name in view:
            before = {version for other, version in retiring if other == name}
            before |= current[name].versions if name in current else set()
            view[name] = replace(view[name], leaving=frozenset(before - view[name].versions))
    # ensembles that this view removes are still in use; from the next view on they are among the retiring
    ensembles = [model for models in (wanted, view, current) for model in models.values()]
    for step, versions in _named([*ensembles, *(Model(steps=steps) for steps in retiring.values())]).items():
        source = wanted.get(step) or current.get(step)
        if source is not None and source.config is not None:
            view[step] = replace(source, versions=frozenset(versions))
    return view


def at_rest(view: View) -> View:
    """Returns a view without the versions that its ensembles no longer name."""
    shown = {(name, version) for name, model in view.items() for version in model.versions}
    return next_view({}, view, {}, shown)


def without(wanted: View, current: View, rejected: Collection[str]) -> View:
    """Returns the wanted view without failed ensembles: their current versions stay, with their steps."""
    accepted = {name: model for name, model in wanted.items() if name not in rejected}
    kept = {name: current[name] for name in rejected if name in current and name in wanted}
    named = _named(accepted.values())
    for step in _named(wanted[name] for name in rejected if name in wanted):
        if step not in named and accepted.pop(step, None) is not None and step in current:
            kept[step] = current[step]
    return {**accepted, **kept}


def _named(models: Iterable[Model]) -> dict[str, set[int]]:
    """Returns step → the versions that ensembles name."""
    named: dict[str, set[int]] = {}
    for model in models:
        for step, version in model.steps:
            named.setdefault(step, set()).add(version)
    return named


def _is_exported(step: Version, wanted: View) -> bool:
    return step[0] in wanted and wanted[step[0]].config is not None


def _remedy(fault: str) -> str:
    if fault == NO_WEIGHTS:
        return "export it, or remove it"
    return "if it was copied here, copy it again; else export it again, or remove it"


def _text(repository: Path, name: str) -> str:
    return (repository / name / disk.CONFIG).read_text()
