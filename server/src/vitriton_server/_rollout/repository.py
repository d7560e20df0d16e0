"""Checks of a model repository before Triton reads it, for mistakes that Triton explains badly."""

from __future__ import annotations

import re
from pathlib import Path

from vitriton._console.paths import folder_fault
from vitriton._repository import disk
from vitriton._repository.disk import FINGERPRINT, NOT_EXPORTED, read_config
from vitriton._repository.names import encoder_name, read_ensemble_name

from vitriton_server._errors import RepositoryError

# The python backend of 2.51.0 puts the path unquoted on a shell's command line and decodes it as ASCII.
_PASSES = re.compile(r"[A-Za-z0-9/._+=@,:~%-]*")


def check(repository: Path, *, may_be_empty: bool = False) -> list[str]:
    """Returns the names of the models in a repository.

    Args:
        repository: the folder of the models.
        may_be_empty: whether the repository may be empty, since models may be added later.

    Raises:
        RepositoryError: the repository is missing or empty, or holds a folder that is not a model or an export without
        its weights.
    """
    if (fault := folder_fault(repository)) is not None:
        advice = f"; make a repository with `vitriton export MODEL --repository {repository}`, or name another"
        raise RepositoryError(fault if fault.endswith("?") else fault + advice)
    if not _PASSES.fullmatch(str(repository.resolve())):
        raise RepositoryError(
            f"{repository.resolve()} has a character that Triton's python backend cannot pass on to its "
            "processes (a space, a quote, a letter outside ASCII); move the repository, or mount it elsewhere"
        )
    try:
        folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    except OSError as exc:
        raise RepositoryError(f"{repository} cannot be read: {exc.strerror}") from exc
    _check_level(repository)
    if not folders and not may_be_empty:
        raise RepositoryError(
            f"{repository} holds no models; fill it with `vitriton export MODEL --repository {repository}`, or name "
            "another"
        )
    for folder in folders:
        if not _is_model(folder):
            raise RepositoryError(
                f"{repository} holds {folder.name}, which is not a model (no config.pbtxt, no version folder), and "
                "Triton refuses a repository that holds one; remove it or move it elsewhere"
            )
    for folder in folders:
        _check_exported(repository, folder)
    return [folder.name for folder in folders]


def builds_engines(repository: Path) -> bool:
    """Whether a model in a repository has TensorRT build an engine when it is loaded for the first time."""
    configs = [read_config(folder) for folder in repository.iterdir() if folder.is_dir()]
    return any(
        accelerator.name == "tensorrt"
        for config in configs
        if config is not None
        for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator
    )


def _check_level(repository: Path) -> None:
    """Refuses a model's own folder or version folder in place of the repository."""
    for folder in (repository.resolve(), repository.resolve().parent):
        if (folder / disk.CONFIG).is_file():
            raise RepositoryError(
                f"{repository} belongs to one model, {folder.name}; name the folder of all models: {folder.parent}"
            )


def _is_model(folder: Path) -> bool:
    return (folder / "config.pbtxt").is_file() or any(
        entry.is_dir() and entry.name.isdigit() for entry in folder.iterdir()
    )


def _check_exported(repository: Path, folder: Path) -> None:
    config = read_config(folder)
    if config is None or FINGERPRINT not in config.parameters or not config.HasField("ensemble_scheduling"):
        return
    name, _ = read_ensemble_name(folder.name) or (folder.name, None)
    advice = (
        f"run `vitriton export MODEL --name {name} --repository {repository}` (MODEL: its Hugging Face id or a local "
        "checkpoint), or name another repository"
    )
    for step in config.ensemble_scheduling.step:
        if step.model_name == encoder_name(folder.name) and not _has_weights(repository / step.model_name):
            raise RepositoryError(f"{repository} has no weights yet for the export {name}: {advice}")
    if config.parameters[FINGERPRINT].string_value == NOT_EXPORTED:
        raise RepositoryError(f"{repository} holds the export {name}, which did not finish: {advice}")


def _has_weights(encoder: Path) -> bool:
    config = read_config(encoder)
    filename = (config.default_model_filename if config is not None else "") or "model.onnx"
    return any(path.exists() for path in encoder.glob(f"[0-9]*/{filename}"))
