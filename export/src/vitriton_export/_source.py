"""Where a checkpoint comes from: a folder, or the Hugging Face hub (HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE apply)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from vitriton_export._errors import ExportError, HubError, one_line

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_CONFIGS = ["config.json", "preprocessor_config.json", "processor_config.json"]
_SAFETENSORS = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk.

    Attributes:
        folder: where its files are.
        model_id: how a person names it: the hub id, or the folder's own name.
        revision: the commit on the hub; None for a folder.
    """

    folder: Path
    model_id: str
    revision: str | None


def find(model: str, revision: str | None) -> Source:
    """Finds the checkpoint and its configuration; on the hub, its weights are not downloaded yet.

    Raises:
        HubError: the hub cannot be reached.
        ExportError: there is no such checkpoint.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ExportError(f"{model} is a folder, which has no revisions; leave out --revision")
        source = Source(path, path.resolve().name, None)
        _check_readable(path)
    elif path.exists():
        raise ExportError(f"{model} is a file; give the folder that holds config.json and the weights")
    elif model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ExportError(f"there is no folder {model}")
    else:
        folder = _download(model, revision, _CONFIGS)
        source = Source(folder, model, folder.name)
    if not (source.folder / "config.json").is_file():
        raise ExportError(f"{_where(source)} is no checkpoint: it has no config.json; write one with save_pretrained")
    return source


def fetch_weights(source: Source) -> Source:
    """Makes sure that weights and image processor are there, downloading the weights where they are on the hub.

    Raises:
        HubError: the hub cannot be reached.
        ExportError: the checkpoint has none.
    """
    check_image_processor(source)
    if source.revision is not None:
        folder = _download(source.model_id, source.revision, _CONFIGS + _SAFETENSORS)
        if not _has_weights(folder):
            folder = _download(source.model_id, source.revision, _CONFIGS + _PICKLES)
        source = Source(folder, source.model_id, source.revision)
    if not _has_weights(source.folder):
        raise ExportError(f"{_where(source)} has no weights: none of {', '.join(_WEIGHTS)}")
    return source


def check_image_processor(source: Source) -> None:
    """Makes sure that the image processor's settings are there.

    Raises:
        ExportError: they are not.
    """
    if not any((source.folder / name).is_file() for name in _CONFIGS[1:]) and not has_timm_config(source.folder):
        raise ExportError(
            f"{_where(source)} has no preprocessor_config.json, so nothing says how its images are prepared; "
            "write one with the image processor's save_pretrained"
        )


def files_sha256(folder: Path) -> str:
    """One hash over the files of a checkpoint's folder that an export reads."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in _files(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    patterns = _CONFIGS + _SAFETENSORS + _PICKLES
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _check_readable(folder: Path) -> None:
    """Weights are written for their owner alone, and transformers takes one that it may not read for a missing one."""
    readable = os.access(folder, os.R_OK | os.X_OK)
    refused = [path for path in _files(folder) if not os.access(path, os.R_OK)] if readable else [folder]
    if refused:
        raise ExportError(f"user {os.geteuid()} may not read {refused[0]}; `chmod -R a+rX {folder}` lets everybody")


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_timm_config(folder: Path) -> bool:
    """Whether config.json says how images are prepared, as that of timm's models does, and no other file."""
    if (folder / "preprocessor_config.json").is_file():
        return False
    try:
        document = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and isinstance(document.get("pretrained_cfg"), dict)


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _WEIGHTS)


def _where(source: Source) -> str:
    return str(source.folder) if source.revision is None else source.model_id


def _download(model: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    at = f" at revision {revision}" if revision else ""
    endpoint = constants.ENDPOINT
    try:
        # fnmatch's * also matches a slash: copies of the weights in other formats lie in sub-folders
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except errors.GatedRepoError as exc:
        raise ExportError(f"{model} is gated: accept its terms on its page, then set HF_TOKEN to your token") from exc
    except errors.RepositoryNotFoundError as exc:
        raise ExportError(
            f"{endpoint} has no model {model}, or it is private; check the name, or set HF_TOKEN to a token that "
            "may read it"
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise ExportError(f"{model} has no revision {revision}") from exc
    except errors.HFValidationError as exc:
        raise ExportError(f"{model!r} is neither a folder nor a hub id (namespace/name)") from exc
    except errors.LocalEntryNotFoundError as exc:
        offline = isinstance(exc.__cause__, errors.OfflineModeIsEnabled)
        reason = (
            "HF_HUB_OFFLINE is set" if offline else f"{endpoint} cannot be reached ({one_line(exc.__cause__ or exc)})"
        )
        raise HubError(
            f"{model}{at} is not in the local cache and {reason}; check the network, point HF_ENDPOINT at a mirror, "
            "or give a checkpoint's folder"
        ) from exc
    except (errors.HfHubHTTPError, OSError) as exc:
        status = getattr(getattr(exc, "response", None), "status_code", None)
        if status in (401, 403):
            raise ExportError(
                f"{endpoint} refuses {model} ({status}); set HF_TOKEN to a token that may read it"
            ) from exc
        raise HubError(f"{model}{at} could not be downloaded from {endpoint}: {one_line(exc)}") from exc
