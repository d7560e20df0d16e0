"""manifest.json: everything needed to tell where an embedding came from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from vitriton._repository.names import OUTPUT, Tower

from vitriton_export._checkpoint import source as sources
from vitriton_export._checkpoint.heads import Head
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._options import ExportOptions
from vitriton_export._parity import gates
from vitriton_export._parity.gates import Gate
from vitriton_export._parity.tally import Stage
from vitriton_export._repository.deployment import VERSION, Deployment

FORMAT = 1
_LIBRARIES = (
    "vitriton-export",
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "pillow",
    "tokenizers",
)


def build(
    deployment: Deployment,
    source: CheckpointSource,
    weights: str,
    parity: list[Stage],
    demanded: Mapping[str, Gate],
    staging: Path,
    options: ExportOptions,
    towers: Sequence[Tower],
    warnings: Sequence[str] = (),
    head: Head | None = None,
) -> dict[str, Any]:
    """Returns the manifest of a staged export, whose files are written and verified.

    Args:
        deployment: the staged deployment.
        source: the checkpoint that was exported.
        weights: the hash of the weights.
        parity: the parity report, by stage.
        demanded: the gates, by stage.
        staging: the staging folder.
        options: the options of the export.
        towers: the towers of the export, installed together.
        warnings: the warnings that the user was shown.
        head: the head that is not exported, or None.
    """
    # without the version folder, which gets its number at installation
    files = {
        f"{name}/{path.relative_to(staging / name / VERSION).as_posix()}": path
        for name in deployment.model_names
        for path in sorted((staging / name / VERSION).rglob("*"))
        if path.is_file()
    }
    return {
        "format": FORMAT,
        "name": deployment.name,
        "towers": list(towers),
        "fingerprint": deployment.fingerprint,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": {
            "model": source.model_id,
            "revision": source.revision,
            "weights_sha256": weights,
            "weights_files": [path.name for path in source.weights.files] if source.weights else [],
            # for the hub, the revision identifies them
            "files_sha256": sources.files_sha256(source.folder) if source.revision is None else None,
        },
        "head": None if head is None else head.to_document(),
        "pooling": deployment.pooling,
        "l2_normalize": deployment.l2_normalize,
        **deployment.logits,
        "precision": deployment.precision,
        "options": plain(options),
        "max_batch_size": deployment.max_batch_size,
        **deployment.step.to_document(),
        "outputs": {
            deployment.ensemble_name(kind): {
                "name": OUTPUT[kind],
                "dims": list(shape),
                "data_type": deployment.output_type,
            }
            for kind, shape in deployment.shapes.items()
        },
        "files": {name: {"sha256": sources.sha256(path), "bytes": path.stat().st_size} for name, path in files.items()},
        "parity": {
            "reference": "transformers, torch float32, PIL image processor",
            "gates": gates.to_document(demanded),
            "stages": [stage.to_dict() for stage in parity],
        },
        "warnings": list(warnings),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
    }


def write(manifest: dict[str, Any], deployment: Deployment, staging: Path) -> None:
    """Writes a copy beside each ensemble."""
    text = json.dumps(manifest, indent=2) + "\n"
    for kind in deployment.shapes:
        (staging / deployment.ensemble_name(kind) / VERSION / "manifest.json").write_text(text)


def plain(options: ExportOptions) -> dict[str, Any]:
    """Returns every option of the export, given or not: with source and versions, enough to repeat it."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options), default=os.fspath))  # as they will be in the file
    folder = Path(options.model).expanduser()
    return plain | {"model": str(folder.resolve())} if folder.is_dir() else plain
