"""Finds what a repository already holds under a name. Makes no request to the hub, and does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from vitriton._repository import complete, disk
from vitriton._repository.names import ENSEMBLES, KINDS, Kind, ensemble_name, kind_of

from vitriton_export._checkpoint import source as sources
from vitriton_export._errors import printable
from vitriton_export._options import ExportOptions
from vitriton_export._repository import manifest as _manifest
from vitriton_export._repository.deployment import Deployment

# Options that locate the export, or that are compared by what they resolve to
_NOT_DECIDING = ("limits", "max_text_bytes", "prompts", "default_prompt")
_COMPARED_OTHERWISE = {"model", "revision", "name", "repository"}


def difference(options: ExportOptions) -> str | None:
    """Says why an export with these options must be made; None where the repository holds it complete.

    It is complete when a manifest has the same model and revision (for a folder: the same files) and the same options,
    and graphs and preprocessing on disk are those in the manifest. Versions of libraries do not count. Branches are
    not followed: the revision of a hub id is compared as given, or with the commit that was exported.
    """
    repository = options.folder
    try:
        ensembles = {kind: repository / ensemble_name(options.deployed_name, kind) for kind in KINDS}
        found = next((kind for kind in KINDS if ensembles[kind].exists()), KINDS[0])
        configs = {kind: disk.read_config(ensembles[kind]) for kind in options.kinds(ENSEMBLES[found].tower)}
        for kind, config in configs.items():
            fingerprint = None if config is None else disk.fingerprint(config)
            if config is None or fingerprint in (None, disk.NOT_EXPORTED):
                return f"{ensembles[kind]} holds no export"
            version = max(disk.served_versions(config, ensembles[kind]), default=0)
            manifest = json.loads((ensembles[kind] / str(version) / "manifest.json").read_text())
            reason = _other(manifest, options) or damaged(repository, ensembles[kind].name)
            if reason is None and manifest["fingerprint"] != fingerprint:
                reason = f"{ensembles[kind]} and its manifest have two fingerprints"
            if reason is not None:
                return reason
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        return f"what is in {repository} cannot be read ({type(exc).__name__})"
    return None


def earlier(repository: Path, name: str) -> dict[Kind, str]:
    """Describes the outputs that are there under a name: kind → "version 1, exported from … on …"."""
    found: dict[Kind, str] = {}
    for kind in KINDS:
        folder = repository / ensemble_name(name, kind)
        config = disk.read_config(folder)
        if config is not None and disk.fingerprint(config) not in (None, disk.NOT_EXPORTED):
            version = max(disk.served_versions(config, folder), default=0)
            found[kind] = f"version {version}{_origin(folder / str(version) / 'manifest.json')}"
    return found


def changes(manifest: Mapping[str, Any], deployment: Deployment, weights: str | None) -> str:
    """Says why an export and a planned one have different fingerprints, as far as the manifest of the first tells.

    Args:
        manifest: the manifest of the export, or those of its entries that are known.
        deployment: the planned export.
        weights: the hash of the planned export's weights; None where it is unknown.
    """
    now: dict[str, Any] = {
        "pooling": deployment.pooling,
        "l2_normalize": deployment.l2_normalize,
        "precision": deployment.precision,
    }
    named = [_change(name, manifest, now) for name in now if name in manifest and manifest[name] != now[name]]
    prepared = deployment.step.to_document()
    now = {name: _deciding(entries) for name, entries in prepared.items()}
    then = {name: _deciding(manifest.get(name)) for name in prepared}
    named += [f"the {name} is another" for name in now if then[name] not in (None, now[name])]
    outputs, pooled = manifest.get("outputs"), kind_of(True, deployment.step.tower)
    if outputs is not None and (ensemble_name(deployment.name, pooled) in outputs) != (pooled in deployment.shapes):
        named.append("only one of the two has a pooled output")
    # these decide which weights count
    elif manifest.get("pooling") == deployment.pooling and weights is not None:
        known = manifest.get("source", {}).get("weights_sha256")
        named += ["the weights are others"] if known not in (None, weights) else []
    return "; ".join(named) or "the weights or the configuration are others"


def _deciding(entries: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the part of how inputs are prepared that changes a vector: without limits and prompts."""
    return None if entries is None else {key: value for key, value in entries.items() if key not in _NOT_DECIDING}


def _origin(path: Path) -> str:
    try:
        manifest = json.loads(path.read_text())
        when = datetime.fromisoformat(manifest["created"])
        return printable(f", exported from {manifest['source']['model']} on {when:%Y-%m-%d %H:%M} UTC")
    except (OSError, ValueError, KeyError, TypeError):  # it can be replaced nevertheless
        return ""


def _other(manifest: Mapping[str, Any], options: ExportOptions) -> str | None:
    """Says which settings the existing export differs in, and whether its model is another; None if nothing is."""
    source, then = manifest["source"], manifest["options"]
    now = _manifest.plain(options)
    compared = sorted(now.keys() - _COMPARED_OTHERWISE)
    reasons = [_change(name, then, now) for name in compared if name not in then or then[name] != now[name]]
    folder = Path(options.model).expanduser()
    if folder.is_dir():
        if source.get("files_sha256") != sources.files_sha256(folder):
            reasons.append(f"the files in {folder} are not those that were exported")
    elif source["model"] != options.model:
        reasons.append(f"the model was {source['model']} and is {options.model}")
    elif options.revision not in (then["revision"], source["revision"]):
        reasons.append(_change("revision", then, now))
    return "; ".join(reasons) or None


def _change(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    flag = f"--{name.replace('_', '-')}"
    if name not in then:
        return f"{flag} is {_typed(now[name])}, and that export did not have it"
    return f"{flag} was {_typed(then[name])} and is {_typed(now[name])}"


def _typed(value: Any) -> str:
    """Returns the value of an option in the manifest, as one gives it on the command line."""
    if value is None or isinstance(value, bool):
        return "given" if value else "not given"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def damaged(repository: Path, ensemble: str) -> str | None:
    """Says which part of an export's ensemble is missing or is not the exported one; None if all are as exported.

    It reads the graphs and compares their hashes, which `vitriton._repository.complete` does not.

    Args:
        repository: the folder of the models.
        ensemble: the name of the ensemble.
    """
    fault = complete.missing(repository, ensemble)
    if fault is not None:
        return fault
    config: Any = disk.read_config(repository / ensemble)
    manifest = complete.read_manifest(
        repository / ensemble / str(max(disk.served_versions(config, repository / ensemble)))
    )
    for step, version in sorted(disk.steps(config, repository)):
        for file, graph in complete.graphs(manifest, step).items():
            if sources.sha256(repository / step / str(version) / file) != graph.get("sha256"):
                return f"{step}/{version}/{file} {complete.OTHER_GRAPH}"
    return None
