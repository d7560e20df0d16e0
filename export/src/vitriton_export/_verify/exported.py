"""The description that an export carries: in a repository's manifest, or in the parameters of a served model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from vitriton._console.paths import folder_fault
from vitriton._repository.complete import MANIFEST, missing
from vitriton._repository.disk import NOT_EXPORTED
from vitriton._repository.names import ENSEMBLES, INPUT_IDS, KINDS, Kind, Tower, ensemble_name, kinds_of
from vitriton.preprocessing import ImageError, PreprocessSpec, preprocess

from vitriton_export._errors import ExportError, OptionError, one_line
from vitriton_export._options import Outputs, Precision
from vitriton_export._parity import gates as _gates
from vitriton_export._parity.gates import Gate
from vitriton_export._parity.versions import ensemble_version
from vitriton_export._repository.deployment import read_fingerprint
from vitriton_export._repository.remove import exports
from vitriton_export.triton.tokenize.vitriton_tokenizing import TextError, TokenizeSpec, decode

# The entries of manifest.json that say how inputs are prepared, and the parameters of a served model that say the same
_PREPARED: Mapping[Tower, tuple[str, ...]] = {"image": ("preprocessing", "normalization"), "text": ("tokenization",)}
_PARAMETERS = {"preprocessing": "preprocess", "normalization": "normalization"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One tower of an export, as described by what is deployed.

    Attributes:
        name: the name of the export.
        kinds: the kinds of the tower's ensembles that are present.
        outputs: the outputs that were exported.
        model_id: the source of the weights: a hub id, or the name of a folder.
        revision: the commit on the hub; None for a folder.
        weights: the hash of the weights; None where it is unknown, as on a server.
        pooling: the pooling that makes the embedding.
        l2_normalize: whether embeddings are scaled to length 1.
        precision: the precision of the encoders.
        max_batch_size: the largest number of images in a request.
        prepared: how the inputs of the encoder are made, as in the manifest (`FirstStep.to_document`).
        fingerprint: the name of the embedding space.
        options: the options of the export, by the names of `ExportOptions`; a served model has only those that change
            its inputs or its gates.
        gates: the gates, by stage.
        versions: the versions of the libraries that made it, by name; empty where they are unknown.
    """

    name: str
    kinds: tuple[Kind, ...]
    outputs: Outputs
    model_id: str
    revision: str | None
    weights: str | None
    pooling: str
    l2_normalize: bool
    precision: Precision
    max_batch_size: int
    prepared: Mapping[str, Any]
    fingerprint: str
    options: Mapping[str, Any]
    gates: Mapping[str, Gate]
    versions: Mapping[str, str]

    @property
    def tower(self) -> Tower:
        """The tower."""
        return ENSEMBLES[self.kinds[0]].tower

    def refusal(self, data: bytes) -> str | None:
        """Says why an input is over the limits of the model; None where it is not."""
        if self.tower == "text":
            text = decode(data, _text_spec(self.prepared))
            return str(text) if isinstance(text, TextError) else None
        try:
            preprocess(data, _image_spec(self.prepared))
        except ImageError as exc:
            return str(exc)
        return None


def from_repository(repository: Path, name: str | None) -> tuple[Exported, ...]:
    """Reads the manifests of an export.

    Args:
        repository: the folder of the models.
        name: the name of the export; None: the only one in the repository.

    Returns:
        Its towers, images first.

    Raises:
        OptionError: there is no such export, or it has no weights yet.
        ExportError: a manifest cannot be read.
    """
    if (fault := folder_fault(repository, "name the repository that holds the export")) is not None:
        raise OptionError("repository", fault)
    name = name if name is not None else _only_name(repository)
    folders = {kind: repository / ensemble_name(name, kind) for kind in KINDS}
    kinds = tuple(kind for kind, folder in folders.items() if (folder / "config.pbtxt").is_file())
    if not kinds:
        raise OptionError("", f"{repository} has no model {name}; it has: {', '.join(exports(repository)) or 'none'}")
    if read_fingerprint(folders[kinds[0]] / "config.pbtxt") == NOT_EXPORTED:
        raise OptionError("repository", f"{repository} has no weights yet for {name}; run `vitriton export` for it")
    by_tower = {tower: tuple(kind for kind in kinds if kind in kinds_of(tower)) for tower in _PREPARED}
    for kind in kinds:
        check_complete(repository, name, missing(repository, ensemble_name(name, kind)))
    read = {kind: _read(folders[kind], name, of_tower, kinds) for of_tower in by_tower.values() for kind in of_tower}
    return tuple(read[of_tower[0]] for of_tower in by_tower.values() if of_tower)


def _read(ensemble: Path, name: str, kinds: tuple[Kind, ...], present: tuple[Kind, ...]) -> Exported:
    """Reads an ensemble's manifest: the description of a tower, of whose ensembles `kinds` are present."""
    path = ensemble_version(ensemble) / MANIFEST
    if not path.exists():
        raise ExportError(f"{path} is missing; copy it, or export the model again")
    try:
        manifest = json.loads(path.read_text())
        check_complete(ensemble.parent, name, _absent(manifest, name, present))
        return _from_manifest(manifest, name, kinds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ExportError(
            f"{path} cannot be read ({type(exc).__name__}: {one_line(exc)}); export the model again"
        ) from exc


def check_complete(repository: Path, name: str, fault: str | None) -> None:
    """Refuses an export that has a fault.

    Raises:
        ExportError: a part is missing or is not the exported one; the text names it.
    """
    if fault is not None:
        raise ExportError(f"{name} in {repository} is not as it was exported: {fault}; copy or export it again")


def from_parameters(
    name: str,
    kinds: Sequence[Kind],
    exported_kinds: Sequence[Kind],
    max_batch_size: int,
    datatype: str | None,
    parameters: Mapping[str, str],
) -> Exported:
    """Reads the parameters that `vitriton export` wrote into the configuration of a tower of a served model.

    Args:
        name: the name of the export.
        kinds: the kinds of the tower's ensembles that are ready.
        exported_kinds: the kinds of the tower's ensembles that the server has, ready or not.
        max_batch_size: the largest batch of the ensembles.
        datatype: the data type of their outputs, by Triton's name.
        parameters: the parameters of one of the ensembles.

    Raises:
        ExportError: the parameters are incomplete or malformed.
    """
    try:
        precision: Any = parameters["precision"]
        tower = ENSEMBLES[kinds[0]].tower
        prepared = _text_step(parameters) if tower == "text" else _image_step(parameters)
        options = json.loads(parameters.get("verification", "{}"))
        gates = _served_gates(tower, prepared, precision, "fp16" if datatype == "FP16" else "fp32")
        return Exported(
            name=name,
            kinds=tuple(kinds),
            outputs=_outputs(exported_kinds),
            model_id=parameters["model"],
            revision=parameters.get("revision"),
            weights=None,
            pooling=parameters["pooling"],
            l2_normalize=parameters["l2_normalize"] == "true",
            precision=precision,
            max_batch_size=max_batch_size,
            prepared=prepared,
            fingerprint=parameters["fingerprint"],
            options=options,
            gates=_gates.with_min_cosine(gates, options.get("min_cosine")),
            versions={"pillow": parameters["pillow_version"]} if tower == "image" else {},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ExportError(
            f"the configuration of {name} does not say how it was exported ({type(exc).__name__}: {one_line(exc)}); "
            "export the model again"
        ) from exc


def _only_name(repository: Path) -> str:
    names = exports(repository)
    if not names:
        raise OptionError("repository", f"{repository} has no model that `vitriton export` made; name another")
    if len(names) > 1:
        raise OptionError("", f"{repository} has several models; name one: {', '.join(names)}")
    return names[0]


def _from_manifest(manifest: Mapping[str, Any], name: str, kinds: tuple[Kind, ...]) -> Exported:
    source, precision = manifest["source"], manifest["precision"]
    exported = [kind for kind in KINDS if ensemble_name(manifest["name"], kind) in manifest["outputs"]]
    gates = manifest["parity"].get("gates")
    return Exported(
        name=name,
        kinds=kinds,
        outputs=_outputs(exported),
        model_id=source["model"],
        revision=source["revision"],
        weights=source["weights_sha256"],
        pooling=manifest["pooling"],
        l2_normalize=manifest["l2_normalize"],
        precision=precision,
        max_batch_size=manifest["max_batch_size"],
        prepared={key: manifest[key] for key in _PREPARED[ENSEMBLES[kinds[0]].tower]},
        fingerprint=manifest["fingerprint"],
        options=manifest.get("options", {}),
        gates=_gates.gates(precision) if gates is None else _gates.from_document(gates),
        versions=manifest["versions"],
    )


def _absent(manifest: Mapping[str, Any], name: str, present: tuple[Kind, ...]) -> str | None:
    """Says which output or tower was exported with an ensemble and is not there. Later exports remove none."""
    exported = [kind for kind in KINDS if ensemble_name(manifest["name"], kind) in manifest["outputs"]]
    faults = [f"{ensemble_name(name, kind)} is missing" for kind in exported if kind not in present]
    towers = {ENSEMBLES[kind].tower for kind in present}
    faults += [f"its {tower} tower is missing" for tower in manifest.get("towers", ()) if tower not in towers]
    return next(iter(faults), None)


def _image_step(parameters: Mapping[str, str]) -> dict[str, Any]:
    found = {name: json.loads(parameters[key]) for name, key in _PARAMETERS.items()}
    _image_spec(found)  # a malformed one is refused here
    return found


def _text_step(parameters: Mapping[str, str]) -> dict[str, Any]:
    prompts = {
        "prompts": json.loads(parameters.get("prompts", "{}")),
        "default_prompt": parameters.get("default_prompt"),
    }
    found = {"tokenization": json.loads(parameters["tokenize"]) | prompts}
    _text_spec(found)
    return found


def _image_spec(prepared: Mapping[str, Any]) -> PreprocessSpec:
    return PreprocessSpec.from_json(json.dumps(prepared["preprocessing"]))


def _text_spec(prepared: Mapping[str, Any]) -> TokenizeSpec:
    known = {field.name for field in fields(TokenizeSpec)}
    return TokenizeSpec(**{key: value for key, value in prepared["tokenization"].items() if key in known})


def _served_gates(tower: Tower, prepared: Mapping[str, Any], precision: str, output_dtype: str) -> dict[str, Gate]:
    if tower == "text":
        return _gates.gates(precision, output_dtype=output_dtype, first=INPUT_IDS)
    from vitriton_export._processors.reference_pixels import FLOAT_TOLERANCE  # it imports torch

    spec = _image_spec(prepared)
    return _gates.gates(
        precision,
        output_dtype=output_dtype,
        pixel_tolerance=FLOAT_TOLERANCE if spec.dtype == np.float32 else 0.0,
        scaled_decoding=spec.scales_jpegs,
    )


def _outputs(kinds: Sequence[Kind]) -> Outputs:
    if len(kinds) > 1:
        return "both"
    return "pooled" if ENSEMBLES[kinds[0]].pooled else "unpooled"
