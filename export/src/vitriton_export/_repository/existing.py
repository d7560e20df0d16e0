"""Finds what a repository already holds under a name. Makes no request to the hub, and does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from vitriton._repository import complete, disk
from vitriton._repository.names import ENSEMBLES, KINDS, Kind, Tower, ensemble_name, kind_of, kinds_of

from vitriton_export._checkpoint import source as sources
from vitriton_export._errors import printable
from vitriton_export._options import ExportOptions
from vitriton_export._repository import manifest as _manifest
from vitriton_export._repository.deployment import Deployment

# Options that locate the export, or that are compared by what they resolve to
_NOT_DECIDING = ("limits", "max_text_bytes", "prompts", "default_prompt")
_COMPARED_OTHERWISE = {"model", "revision", "name", "repository"}
# The options that change vectors by the way inputs are prepared or embeddings are cut, with their defaults
_PREPARING: Mapping[str, Any] = {
    "image_size": None,
    "image_processor_kwargs": {},
    "jpeg_decoding": "exact",
    "max_length": None,
    "dimensions": None,
}


def difference(options: ExportOptions) -> str | None:
    """Says why an export with these options must be made; None where the repository holds it complete.

    It is complete when a manifest has the same model and revision (for a folder: the same files) and the same options,
    and the files on disk are those in the manifest. Versions of libraries do not count. Branches are not followed: the
    revision of a hub id is compared as given, or with the commit that was exported.
    """
    repository = options.folder
    try:
        ensembles = {kind: repository / ensemble_name(options.deployed_name, kind) for kind in KINDS}
        wanted = kinds_of(options.towers) if options.towers in ("image", "text") else KINDS
        found = next((kind for kind in wanted if ensembles[kind].exists()), wanted[0])
        for kind in (kind for tower in _towers(ensembles[found], found) for kind in options.kinds(tower)):
            config = disk.read_config(ensembles[kind])
            fingerprint = None if config is None else disk.fingerprint(config)
            if config is None or fingerprint in (None, disk.NOT_EXPORTED):
                return f"{ensembles[kind]} holds no export"
            version = max(disk.served_versions(config, ensembles[kind]), default=0)
            manifest = json.loads((ensembles[kind] / str(version) / "manifest.json").read_text())
            reason = _other(manifest, options) or complete.missing(repository, ensembles[kind].name, read_graphs=True)
            if reason is not None:
                return reason
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        return f"what is in {repository} cannot be read ({type(exc).__name__})"
    return None


def _towers(ensemble: Path, kind: Kind) -> Sequence[Tower]:
    """Returns the towers that were exported together with an ensemble."""
    config = disk.read_config(ensemble)
    version = 0 if config is None else max(disk.served_versions(config, ensemble), default=0)
    towers: Sequence[Tower] = complete.read_manifest(ensemble / str(version)).get("towers", [ENSEMBLES[kind].tower])
    return towers


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


def read_manifest(repository: Path, name: str) -> dict[str, Any]:
    """Reads the manifest of an export that is there; empty if there is none, or none that can be read."""
    for kind in KINDS:
        folder = repository / ensemble_name(name, kind)
        config = disk.read_config(folder)
        if config is not None:
            return complete.read_manifest(folder / str(max(disk.served_versions(config, folder), default=0)))
    return {}


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
    if "options" in manifest:
        given, planned = _preparing(manifest["options"]), _preparing(deployment.verification)
        named += [_change(name, given, planned) for name in _PREPARING if given[name] != planned[name]]
    prepared = deployment.step.to_document()
    now = {name: _deciding(entries) for name, entries in prepared.items()}
    then = {name: _deciding(manifest.get(name)) for name in prepared}
    named += [f"the {name} is another" for name in now if then[name] not in (None, now[name])]
    is_same_tower = prepared.keys() <= manifest.keys()
    outputs, pooled = manifest.get("outputs") if is_same_tower else None, kind_of(True, deployment.step.tower)
    if outputs is not None and (ensemble_name(deployment.name, pooled) in outputs) != (pooled in deployment.shapes):
        named.append("only one of the two has a pooled output")
    # these decide which weights count
    elif manifest.get("pooling") == deployment.pooling and weights is not None:
        known = manifest.get("source", {}).get("weights_sha256")
        named += ["the weights are others"] if known not in (None, weights) else []
    return "; ".join(named) or "the weights or the configuration are others"


def _preparing(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that `_PREPARING` names, with the settings of an image processor as data."""
    found = {name: options.get(name, default) for name, default in _PREPARING.items()}
    settings = found["image_processor_kwargs"]
    return found | {"image_processor_kwargs": json.loads(settings) if isinstance(settings, str) else settings}


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
