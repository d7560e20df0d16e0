"""The version of an export that Triton loads."""

from __future__ import annotations

from pathlib import Path

from vitriton._repository import disk

from vitriton_export._errors import ExportError


def ensemble_version(ensemble: Path) -> Path:
    """Returns the version folder of an ensemble that Triton loads.

    Raises:
        ExportError: there is no such version.
    """
    config = disk.read_config(ensemble)
    versions = set() if config is None else disk.served_versions(config, ensemble)
    if not versions:
        raise ExportError(f"{ensemble} has no version that Triton would load; export the model again")
    return ensemble / str(max(versions))
