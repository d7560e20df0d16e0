"""Whether an export is complete on disk: a quick look at its files, which reads no graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitriton._repository import disk

GRAPH = "model.onnx"
MANIFEST = "manifest.json"
# What the first step needs beside its model.py
_SPEC = "preprocess.json"


def missing(repository: Path, ensemble: str, *, sizes: bool = True) -> str | None:
    """Says which part of an export's ensemble is missing, or is not as it was exported; None if all are there.

    Args:
        repository: the folder of the models.
        ensemble: the name of the ensemble.
        sizes: whether the graphs must have the sizes that the manifest has.
    """
    return next(_faults(repository, ensemble, sizes=sizes), None)


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


def _faults(repository: Path, ensemble: str, *, sizes: bool) -> Iterator[str]:
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
    bytes_of = _sizes(folder / str(max(own)) / MANIFEST) if sizes else {}
    for step, version in sorted(disk.steps(config, repository)):
        yield from _faults_of_step(repository, step, version, bytes_of)


def _faults_of_step(repository: Path, step: str, version: int, bytes_of: dict[str, int]) -> Iterator[str]:
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
    for file in _files(config):
        if not (folder / file).exists():
            yield f"{step}/{version}/{file} is missing"
    for name, size in bytes_of.items():
        model, _, file = name.partition("/")
        if model == step and (not (folder / file).is_file() or (folder / file).stat().st_size != size):
            yield f"{step}/{version}/{file} is not the file that was exported"


def _files(config: Any) -> list[str]:
    """The files that the version folder of a step holds."""
    if config.backend == "python":
        return ["model.py", *([_SPEC] if disk.fingerprint(config) is not None else [])]
    return [config.default_model_filename or GRAPH]


def _sizes(manifest: Path) -> dict[str, int]:
    """The size of each graph in a manifest, in bytes, by model and file; empty if there is no manifest to read."""
    try:
        return {name: int(graph["bytes"]) for name, graph in json.loads(manifest.read_text())["graphs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
