"""The source of a checkpoint: a folder, or the Hugging Face hub (HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE apply)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from vitriton._console.paths import missing, similar_path

from vitriton_export import _documents
from vitriton_export._checkpoint import hub, sentence_files
from vitriton_export._checkpoint import weights as _weights
from vitriton_export._checkpoint.weights import Weights
from vitriton_export._documents import has_timm_config
from vitriton_export._errors import ExportError, OptionError

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "entity_vocab.json",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
CONFIGS = ("config.json", *PROCESSORS, *_TOKENIZERS, *sentence_files.SMALL)


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint on disk.

    Attributes:
        folder: the folder of its files.
        model_id: the name for people: the hub id, or the folder's own name; the name of the folder above where its own
            is "model".
        revision: the commit on the hub; None for a folder.
        weights: the files of weights; None before they are found.
    """

    folder: Path
    model_id: str
    revision: str | None
    weights: Weights | None = None

    @property
    def where(self) -> str:
        """The name that errors use: the hub id, or the folder's path."""
        return str(self.folder) if self.revision is None else self.model_id


def find(model: str, revision: str | None, option: str = "model") -> CheckpointSource:
    """Finds the checkpoint and its configuration; weights on the hub are not downloaded yet.

    Args:
        model: the hub id, or the folder.
        revision: the revision of a hub id.
        option: the option that names the model, for errors.

    Raises:
        OptionError: there is no such folder, or it holds no checkpoint.
        HubError: the hub cannot be reached.
        ExportError: there is no such checkpoint on the hub.
    """
    source = find_folder(model, revision, option)
    if source is not None:
        return source
    try:
        folder = hub.download(model, revision, [*CONFIGS, _weights.ADAPTER])
    except ExportError as exc:
        similar = similar_path(Path(model))
        if similar is None or not similar.is_dir():
            raise
        raise type(exc)(f"{exc}; if {model} is a folder, did you mean {similar}?") from exc
    nested = sentence_files.nested(folder, model)
    if nested:
        hub.download(model, folder.name, nested, nested=True)
    source = CheckpointSource(folder, model, folder.name)
    _weights.check_adapter(source.folder, source.where)
    _documents.check_regular(folder / "config.json", source.where)
    if not (folder / "config.json").is_file():
        raise ExportError(_no_config(source))
    return source


def find_folder(model: str, revision: str | None, option: str = "model") -> CheckpointSource | None:
    """Finds a checkpoint in a folder; None for the id of a model on the hub, which is not asked.

    Raises:
        OptionError: there is no such folder, or it holds no checkpoint.
        ExportError: its files are not what their names say.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        if path.exists():
            raise OptionError(option, f"{model} is a file; give the folder that holds config.json and the weights")
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise OptionError(option, missing(model))
        return None
    if revision is not None:
        raise OptionError("revision", f"is {revision}, and {model} is a folder, which has no revisions; leave it out")
    own, above = path.resolve().name, path.resolve().parent.name
    source = CheckpointSource(path, above if own == "model" and above else own, None)
    _check_readable(path)
    _weights.check_adapter(path, source.where)
    _documents.check_regular(path / "config.json", source.where)
    if not (path / "config.json").is_file():
        raise OptionError(option, _no_config(source))
    return source


def fetch_weights(source: CheckpointSource) -> CheckpointSource:
    """Checks that the weights are present, and downloads weights that are on the hub.

    Raises:
        HubError: the hub cannot be reached.
        ExportError: the checkpoint has no weights, or the files are not what their names say.
    """
    others = None
    if source.revision is not None:
        source = replace(source, folder=_download_weights(source))
        if _weights.entry(source.folder) is None:
            others = hub.file_names(source.model_id, source.revision or "main")
    return replace(source, weights=_weights.find(source.folder, source.where, others))


def check_image_processor(source: CheckpointSource) -> None:
    """Checks that the image processor's settings are present, and JSON: transformers says less about other files.

    Raises:
        ExportError: the settings are missing, or cannot be read.
    """
    for path in (source.folder / name for name in PROCESSORS):
        _documents.check_regular(path, source.where)
        if path.is_file():
            _documents.read(path, source.model_id)
    if not has_image_processor(source):
        raise ExportError(
            f"{source.where} has no preprocessor_config.json, so nothing says how its images are prepared; "
            "write one with the image processor's save_pretrained"
        )


def has_image_processor(source: CheckpointSource) -> bool:
    """Whether a checkpoint has the settings of an image processor."""
    return any((source.folder / name).is_file() for name in PROCESSORS) or has_timm_config(source.folder)


def files_sha256(folder: Path) -> str:
    """Returns one hash over the files of a checkpoint's folder that an export reads."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in _files(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Returns the SHA-256 hash of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_weights(source: CheckpointSource) -> Path:
    """Downloads the weights that transformers would read, and no other copy of them."""
    folder, small = source.folder, [*CONFIGS, _weights.ADAPTER]
    for name in _weights.ENTRIES:
        folder = hub.download(source.model_id, source.revision, [*small, name])
        if (folder / name).is_file():
            if not name.endswith(".index.json"):
                return folder
            parts = sorted(_weights.shards(folder / name, source.where))
            return hub.download(source.model_id, source.revision, [*small, name, *parts])
    return folder


def _no_config(source: CheckpointSource) -> str:
    return f"{source.where} is not a checkpoint: it has no config.json; write one with save_pretrained"


def _files(folder: Path) -> list[Path]:
    named = (folder / name for name in (*CONFIGS, *sentence_files.nested(folder, folder.name)))
    return sorted(path for path in (*named, *_weights.read_files(folder)) if path.is_file())


def _check_readable(folder: Path) -> None:
    """Refuses unreadable files: weights are written for their owner alone, and transformers reports them as missing."""
    readable = os.access(folder, os.R_OK | os.X_OK)
    refused = [path for path in _files(folder) if not os.access(path, os.R_OK)] if readable else [folder]
    if refused:
        raise ExportError(f"user {os.geteuid()} may not read {refused[0]}; `chmod -R a+rX {folder}` gives access")
