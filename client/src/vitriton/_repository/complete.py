"""Whether an export is whole on disk: a quick look at its files, which reads no graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitriton._repository import disk, names

GRAPH = "model.onnx"
MANIFEST = "manifest.json"
OTHER_GRAPH = "is not the graph that was exported"
_SPEC = "preprocess.json"
# What the first step needs beside its model.py, by the tensor that it takes
_SPECS = {names.IMAGE: (_SPEC,), names.TEXT: ("tokenize.json", "tokenizer.json")}


def missing(repository: Path, ensemble: str) -> str | None:
    """Says which part of an export's ensemble is missing or is not the exported one; None if all are there.

    Of graphs, only the sizes are compared with the manifest: `vitriton verify` compares their hashes.

    Args:
        repository: the folder of the models.
        ensemble: the name of the ensemble.
    """
    return next(_faults(repository, ensemble), None)


def broken_exports(repository: Path, configs: Mapping[str, Any | None]) -> dict[str, str]:
    """The ensembles of exports that no server can load as they are, by name, each with its fault.

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
    manifest = read_manifest(folder / str(max(own)))
    for step, version in sorted(disk.steps(config, repository)):
        yield from _faults_of_step(repository, step, version, manifest)


def read_manifest(version: Path) -> dict[str, Any]:
    """Reads the manifest in an ensemble's version folder; empty if there is none, or none that can be read."""
    try:
        manifest = json.loads((version / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def graphs(manifest: Mapping[str, Any], step: str) -> dict[str, Mapping[str, Any]]:
    """Returns the files of a step's graph in a manifest, by name, each with its sha256 and its size."""
    entries = manifest.get("graphs")
    named = {name.partition("/"): entry for name, entry in entries.items()} if isinstance(entries, dict) else {}
    return {
        file: entry if isinstance(entry, dict) else {} for (model, _, file), entry in named.items() if model == step
    }


def _faults_of_step(repository: Path, step: str, version: int, manifest: Mapping[str, Any]) -> Iterator[str]:
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
    exported = graphs(manifest, step)
    for file in dict.fromkeys([*_files(config), *exported]):
        fault = _fault_of_file(repository / step / str(version) / file, exported.get(file, {}), manifest)
        if fault is not None:
            yield f"{step}/{version}/{file} {fault}"


def _fault_of_file(path: Path, graph: Mapping[str, Any], manifest: Mapping[str, Any]) -> str | None:
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    if path.is_file() and size == 0:
        return "is empty"
    if size != graph.get("bytes", size):
        return OTHER_GRAPH
    if path.name == _SPEC and not _is_exported(path, manifest.get("preprocessing")):
        return "is not the preprocessing that was exported"
    return None


def _is_exported(spec: Path, exported: Any) -> bool:
    """Whether a file of preprocessing, with its limits, is the one in a manifest; None: the manifest has none."""
    try:
        return exported is None or json.loads(spec.read_text()) == exported
    except (OSError, ValueError):
        return False


def _files(config: Any) -> list[str]:
    """The files that the version folder of a step holds."""
    if config.backend == "python":
        is_ours = disk.fingerprint(config) is not None
        takes = config.input[0].name if config.input else names.IMAGE
        return ["model.py", *(_SPECS.get(takes, ()) if is_ours else ())]
    return [config.default_model_filename or GRAPH]
