"""The files of a sentence-transformers folder: which there are, and what modules.json lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitriton_export import _documents
from vitriton_export._errors import ExportError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# The settings of the transformer, by the architecture that the folder was made for (sentence-transformers' own list)
TRANSFORMER = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
SMALL = (MODULES, SETTINGS, *TRANSFORMER)
_OF_A_MODULE = ("config.json", "model.safetensors", "pytorch_model.bin")


def modules(folder: Path, model_id: str) -> list[tuple[str, str]]:
    """Returns the kind and the folder of each module, in order.

    Raises:
        ExportError: modules.json is not a list of modules, or one of them is outside the folder.
    """
    entries: Any = _documents.read_any(folder / MODULES, model_id)
    try:
        found = [(str(entry["type"]).rpartition(".")[2], str(entry.get("path") or "")) for entry in entries]
    except (TypeError, KeyError, AttributeError) as exc:
        raise ExportError(f"{MODULES} of {model_id} is not a list of modules with type and path") from exc
    for _, path in found:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ExportError(f"{MODULES} of {model_id} has the path {path!r}, which leads out of the folder")
    return found


def nested(folder: Path, model_id: str) -> list[str]:
    """Returns the names of the files in the folders of the modules that an export reads, whether they are there or not.

    Raises:
        ExportError: see `modules`.
    """
    if not (folder / MODULES).is_file():
        return []
    return [f"{path}/{name}" for _, path in modules(folder, model_id) if path for name in _OF_A_MODULE]
