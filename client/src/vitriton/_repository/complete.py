"""Whether an export is whole on disk: its files are those that its manifest lists, with their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitriton._repository import disk, names

GRAPH = "model.onnx"
MANIFEST = "manifest.json"
NO_WEIGHTS = "it has no weights yet, or its export did not finish"
_OTHER = "is not the file that was exported"
_CHUNK_BYTES = 1 << 20
# What the first step needs beside its model.py, by the tensor that it takes
_SPECS = {names.IMAGE: ("preprocess.json",), names.TEXT: ("tokenize.json", "tokenizer.json")}


def missing(repository: Path, ensemble: str, *, read_graphs: bool = False) -> str | None:
    """Says which part of an export's ensemble is missing or is not the exported one; None if all are there.

    What its manifest does not list, as those of older exports, is not compared.

    Args:
        repository: the folder of the models.
        ensemble: the name of the ensemble.
        read_graphs: whether to compare the hashes of graphs too, and not only their sizes.
    """
    return next(_faults(repository, ensemble, read_graphs=read_graphs), None)


def stray(repository: Path, name: str) -> str | None:
    """Names a version of an export's models that no ensemble uses and that no export has left to be removed.

    Triton loads it all the same if it is a step's: steps are served in all their versions.

    Args:
        repository: the folder of the models.
        name: the name of the export.

    Returns:
        The first one, such as photos_preprocess/7; None if there is none.
    """
    used, obsolete = disk.needed(repository, disk.models(repository)), disk.read_journal(repository)
    for model in names.model_names(name):
        others = disk.versions(repository / model) - used.get(model, set()) - obsolete.get(model, set())
        if others:
            return f"{model}/{min(others)}"
    return None


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


def by_export(faults: Mapping[str, str]) -> dict[str, str]:
    """Merges the ensembles of an export that have the same fault: they are listed once, under the export's name.

    Args:
        faults: the fault of each ensemble, by name.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for ensemble, fault in faults.items():
        alike.setdefault((names.given_name(ensemble), fault), []).append(ensemble)
    return {ensembles[0] if len(ensembles) == 1 else name: fault for (name, fault), ensembles in alike.items()}


def _faults(repository: Path, ensemble: str, *, read_graphs: bool) -> Iterator[str]:
    folder = repository / ensemble
    config = disk.read_config(folder)
    if config is None:
        yield f"{ensemble}/{disk.CONFIG} is missing or cannot be read"
        return
    if disk.fingerprint(config) == disk.NOT_EXPORTED:
        yield NO_WEIGHTS
        return
    own = disk.served_versions(config, folder)
    if not own:
        yield f"{ensemble} has no version folder"
        return
    manifest = read_manifest(folder / str(max(own)))
    steps = sorted(disk.steps(config, repository))
    if not steps:
        yield f"{ensemble}/{disk.CONFIG} names no steps"
    yield from _faults_of_config(ensemble, config, manifest)
    if config.max_batch_size != manifest.get("max_batch_size", config.max_batch_size):
        yield f"{ensemble}/{disk.CONFIG} has another max_batch_size than its manifest"
    for step, version in steps:
        yield from _faults_of_step(repository, step, version, manifest, read_graphs=read_graphs)


def read_manifest(version: Path) -> dict[str, Any]:
    """Reads the manifest in an ensemble's version folder; empty if there is none, or none that can be read."""
    try:
        manifest = json.loads((version / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _files_of(manifest: Mapping[str, Any], step: str) -> dict[str, Mapping[str, Any]]:
    """The files of a step in a manifest, by their paths in its version folder, each with its sha256 and its size."""
    entries = manifest.get("files", manifest.get("graphs"))  # older exports list their graphs alone
    named = {name.partition("/"): entry for name, entry in entries.items()} if isinstance(entries, dict) else {}
    return {
        file: entry if isinstance(entry, dict) else {} for (model, _, file), entry in named.items() if model == step
    }


def _faults_of_config(model: str, config: Any, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Compares what no export under the same name may change; the rest may be tuned."""
    exported = manifest.get("fingerprint")
    if exported not in (None, disk.fingerprint(config)):
        yield f"{model}/{disk.CONFIG} has another fingerprint than the manifest, {exported}"


def _faults_of_step(
    repository: Path, step: str, version: int, manifest: Mapping[str, Any], *, read_graphs: bool
) -> Iterator[str]:
    if not (repository / step).is_dir():
        yield f"{step} is missing"
        return
    config = disk.read_config(repository / step)
    if config is None:
        yield f"{step}/{disk.CONFIG} is missing or cannot be read"
        return
    yield from _faults_of_config(step, config, manifest)
    if version not in disk.versions(repository / step):
        yield f"{step} has no version folder" if version == disk.LATEST else f"version {version} of {step} is missing"
        return
    exported = _files_of(manifest, step)
    if exported and not config.backend:
        yield f"{step}/{disk.CONFIG} names no backend"
    for file in dict.fromkeys([*_files(config), *exported]):
        fault = _fault_of_file(repository / step / str(version) / file, exported.get(file, {}), read_graphs=read_graphs)
        if fault is not None:
            yield f"{step}/{version}/{file} {fault}"


def _fault_of_file(path: Path, exported: Mapping[str, Any], *, read_graphs: bool) -> str | None:
    if not path.exists():
        return "is missing"
    if path.is_dir():  # some backends' models are folders
        return _OTHER if exported else None
    size = path.stat().st_size
    if size == 0 and exported.get("bytes") != 0:
        return "is empty"
    if size != exported.get("bytes", size):
        return _OTHER
    is_read = "sha256" in exported and (read_graphs or not path.name.startswith(GRAPH))
    return _OTHER if is_read and _sha256(path) != exported["sha256"] else None


def _sha256(path: Path) -> str | None:
    """The hash of a file's content; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _files(config: Any) -> list[str]:
    """The files that the version folder of a step holds."""
    if config.backend == "python":
        is_ours = disk.fingerprint(config) is not None
        takes = config.input[0].name if config.input else names.IMAGE
        return ["model.py", *(_SPECS.get(takes, ()) if is_ours else ())]
    return [config.default_model_filename or GRAPH]
