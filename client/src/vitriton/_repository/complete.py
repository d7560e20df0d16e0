"""Whether an export is complete on disk: a quick look at its files, which reads no graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitriton._repository import disk, names

GRAPH = "model.onnx"
MANIFEST = "manifest.json"
# What the first step needs beside its model.py, by the tensor that it takes
_SPECS = {names.IMAGE: ("preprocess.json",), names.TEXT: ("tokenize.json", "tokenizer.json")}


def missing(repository: Path, ensemble: str) -> str | None:
    """Says which part of an export's ensemble is missing; None if all are there.

    A graph that somebody has replaced is no fault: `vitriton verify` gives its figures.

    Args:
        repository: the folder of the models.
        ensemble: the name of the ensemble.
    """
    return next(_faults(repository, ensemble), None)


def broken_exports(repository: Path, configs: Mapping[str, Any | None]) -> dict[str, str]:
    """The ensembles of exports that no server can load as they are, by name, each with what is missing.

    Args:
        repository: the folder of the models.
        configs: the configuration of every folder in it, by name.
    """
    found = {}
    for name, config in configs.items():
        if config is None:
            is_ours = any((repository / name).glob(f"[0-9]*/{MANIFEST}"))
        else:
            is_ours = disk.fingerprint(config) is not None and config.HasField("ensemble_scheduling")
        fault = missing(repository, name) if is_ours else None
        if fault is not None:
            found[name] = fault
    return found


def _faults(repository: Path, ensemble: str) -> Iterator[str]:
    folder = repository / ensemble
    config = disk.read_config(folder)
    if config is None:
        yield f"{ensemble}/{disk.CONFIG} is missing or cannot be read"
        return
    if disk.fingerprint(config) == disk.NOT_EXPORTED:
        yield "it has no weights yet, or its export did not finish"
        return
    own = disk.served_versions(config, folder)
    if not own:
        yield f"{ensemble} has no version folder"
        return
    graphs = _graphs(folder / str(max(own)) / MANIFEST)
    for step, version in sorted(disk.steps(config, repository)):
        yield from _faults_of_step(repository, step, version, graphs)


def _faults_of_step(repository: Path, step: str, version: int, graphs: list[str]) -> Iterator[str]:
    if not (repository / step).is_dir():
        yield f"{step} is missing"
        return
    config = disk.read_config(repository / step)
    if config is None:
        yield f"{step}/{disk.CONFIG} is missing or cannot be read"
        return
    if version not in disk.versions(repository / step):
        yield f"{step} has no version folder" if version == disk.LATEST else f"version {version} of {step} is missing"
        return
    folder = repository / step / str(version)
    exported = [file for model, _, file in (name.partition("/") for name in graphs) if model == step]
    for file in dict.fromkeys([*_files(config), *exported]):
        if not (folder / file).exists():
            yield f"{step}/{version}/{file} is missing"
        elif (folder / file).is_file() and (folder / file).stat().st_size == 0:
            yield f"{step}/{version}/{file} is empty"


def _files(config: Any) -> list[str]:
    """The files that the version folder of a step holds."""
    if config.backend == "python":
        is_ours = disk.fingerprint(config) is not None
        takes = config.input[0].name if config.input else names.IMAGE
        return ["model.py", *(_SPECS.get(takes, ()) if is_ours else ())]
    return [config.default_model_filename or GRAPH]


def _graphs(manifest: Path) -> list[str]:
    """The graphs in a manifest, as model/file; empty if there is no manifest to read."""
    try:
        return list(json.loads(manifest.read_text())["graphs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
