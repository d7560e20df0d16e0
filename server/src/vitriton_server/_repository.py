"""A look at the model repository before Triton has it, for the mistakes that Triton explains badly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vitriton_server._errors import RepositoryError

# The python backend of 2.51.0 puts the path unquoted on a shell's command line, and decodes it as ASCII.
_PASSES = re.compile(r"[A-Za-z0-9/._+=@,:~%-]*")

FINGERPRINT = "fingerprint"
NOT_EXPORTED = "not-exported"  # the fingerprint of a repository whose text files are there and whose weights are not


def check(repository: Path) -> list[str]:
    """The names of the models in a repository.

    Raises:
        RepositoryError: it is missing or empty, holds a folder that is no model, or an export without its weights.
    """
    if not repository.is_dir():
        what = "is no folder" if repository.exists() else "does not exist"
        raise RepositoryError(
            f"the model repository {repository} {what}; make one with `vitriton export MODEL --repository "
            f"{repository}`, or name another with --repository"
        )
    if not _PASSES.fullmatch(str(repository.resolve())):
        raise RepositoryError(
            f"the path {repository.resolve()} has a character that Triton's python backend cannot pass on to its "
            "processes (a space, a quote, a letter outside of ASCII); move the repository, or mount it elsewhere"
        )
    try:
        folders = sorted(entry for entry in repository.iterdir() if entry.is_dir())
    except OSError as exc:
        raise RepositoryError(f"the model repository {repository} cannot be read: {exc.strerror}") from exc
    if not folders:
        raise RepositoryError(
            f"the model repository {repository} holds no models; fill it with `vitriton export MODEL --repository "
            f"{repository}`, or name another with --repository"
        )
    for folder in folders:
        if not _is_model(folder):
            raise RepositoryError(
                f"{folder} is no model (no config.pbtxt, no version folder), and Triton refuses a repository that "
                "holds one; remove it or move it elsewhere"
            )
    for folder in folders:
        _check_exported(repository, folder)
    return [folder.name for folder in folders]


def _is_model(folder: Path) -> bool:
    return (folder / "config.pbtxt").is_file() or any(
        entry.is_dir() and entry.name.isdigit() for entry in folder.iterdir()
    )


def _check_exported(repository: Path, folder: Path) -> None:
    config = read_config(folder)
    if config is None or FINGERPRINT not in config.parameters or not config.HasField("ensemble_scheduling"):
        return
    name = folder.name.removesuffix("_pooled").removesuffix("_unpooled")
    advice = (
        f"run `vitriton export MODEL --name {name} --repository {repository}` (MODEL: its Hugging Face id or a local "
        "checkpoint), or name another --repository"
    )
    for step in config.ensemble_scheduling.step:
        encoder = repository / step.model_name
        if encoder.name.endswith("_encoder") and not _has_weights(encoder):
            raise RepositoryError(f"`{name}` in {repository} has no weights yet: {advice}")
    if config.parameters[FINGERPRINT].string_value == NOT_EXPORTED:
        raise RepositoryError(f"the export of `{name}` in {repository} did not finish: {advice}")


def _has_weights(encoder: Path) -> bool:
    config = read_config(encoder)
    filename = (config.default_model_filename if config is not None else "") or "model.onnx"
    return any(path.exists() for path in encoder.glob(f"[0-9]*/{filename}"))


def read_config(folder: Path) -> Any | None:
    """A model's config.pbtxt as a ModelConfig message; None when there is none, or none that can be read."""
    # protobuf takes longer to import than the rest of the launcher.
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        text = (folder / "config.pbtxt").read_text()
        return text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        return None
