"""manifest.json: everything that somebody needs who asks where an embedding came from."""

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

from vitriton._repository.names import OUTPUT

from vitriton_export._checkpoint import source as sources
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
)


def build(
    deployment: Deployment,
    source: CheckpointSource,
    weights: str,
    parity: list[Stage],
    demanded: Mapping[str, Gate],
    staging: Path,
    options: ExportOptions,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The manifest of a staged export, whose graphs are written and verified.

    Args:
        deployment: what was staged.
        source: where the model came from.
        weights: their hash.
        parity: the report of the gates.
        demanded: the gates, by stage.
        staging: the folder.
        options: of the export.
        warnings: what the user was told.
    """
    # without the version folder, which has its number only once it is installed
    graphs = {
        f"{name}/{path.name}": path
        for name in deployment.model_names
        for path in sorted((staging / name / VERSION).glob("model.onnx*"))
    }
    return {
        "format": FORMAT,
        "name": deployment.name,
        "fingerprint": deployment.fingerprint,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": {
            "model": source.model_id,
            "revision": source.revision,
            "weights_sha256": weights,
            "weights_files": [path.name for path in source.weights.files] if source.weights else [],
            # on the hub the revision names them
            "files_sha256": sources.files_sha256(source.folder) if source.revision is None else None,
        },
        "pooling": deployment.pooling,
        "l2_normalize": deployment.l2_normalize,
        "precision": deployment.precision,
        "options": plain(options),
        "max_batch_size": deployment.max_batch_size,
        "preprocessing": json.loads(deployment.spec.to_json()),
        "normalization": deployment.normalization.to_dict(),
        "outputs": {
            deployment.ensemble_name(kind): {
                "name": OUTPUT[kind],
                "dims": list(shape),
                "data_type": deployment.output_type,
            }
            for kind, shape in deployment.shapes.items()
        },
        "graphs": {
            name: {"sha256": sources.sha256(path), "bytes": path.stat().st_size} for name, path in graphs.items()
        },
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
    """Puts a copy beside each ensemble."""
    text = json.dumps(manifest, indent=2) + "\n"
    for kind in deployment.shapes:
        (staging / deployment.ensemble_name(kind) / VERSION / "manifest.json").write_text(text)


def plain(options: ExportOptions) -> dict[str, Any]:
    """Every option of the export, given or not: with the source and the versions, enough to do it again."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options), default=os.fspath))  # as the file will have them
    folder = Path(options.model).expanduser()
    return plain | {"model": str(folder.resolve())} if folder.is_dir() else plain
