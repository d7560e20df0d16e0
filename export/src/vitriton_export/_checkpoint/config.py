"""config.json, read as transformers reads it; entries that a file may not decide are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vitriton_export import _documents
from vitriton_export._checkpoint.architectures import FAMILIES, check_installed, family
from vitriton_export._checkpoint.families import Architecture, Family, check_pooling
from vitriton_export._checkpoint.source import (
    CheckpointSource,
    check_image_processor,
    fetch_weights,
    has_image_processor,
)
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES, TEXT_TOWERS
from vitriton_export._checkpoint.weights import ENTRIES
from vitriton_export._errors import ExportError, explained

TIMM = "timm_wrapper"

# The form in which a model holds and returns its values, not the values themselves: no decision for a file
_FORMS = (
    "dtype",
    "torch_dtype",
    "return_dict",
    "use_return_dict",
    "torchscript",
    "output_hidden_states",
    "output_attentions",
)
MEND = "; correct that entry, or use the file that save_pretrained writes"
# Counts of parts that are built one by one, or named one by one: a huge number would exhaust the memory first.
_COUNTS = {re.compile(r"layers|depth|stages|blocks|num_block"): 2_000, re.compile(r"num_labels|num_classes"): 1_000_000}


def check_files(source: CheckpointSource, pooling: str, towers: str = "auto") -> None:
    """Checks the files of a folder without torch and transformers: the small ones, and the beginnings of the others.

    What only transformers can tell of an architecture that is not in the list is left to `load_config`.

    Raises:
        ExportError: the checkpoint cannot be exported, or not with this pooling or these towers.
    """
    _, model_type = _read(source)
    known: Architecture | None = FAMILIES.get(model_type) or TEXT_FAMILIES.get(model_type)
    if known is not None:
        check_pooling(pooling, known, source.model_id)
        has_texts = model_type in TEXT_TOWERS and towers != "image"  # it may do without images
        if model_type in FAMILIES and (has_image_processor(source) or not has_texts):
            check_image_processor(source)
        fetch_weights(source)


def load_config(source: CheckpointSource) -> tuple[Any, Family]:
    """Reads config.json and finds the family of a model that takes images, before any weights are touched.

    Raises:
        ExportError: the file cannot be used (see `read_config`), or the architecture cannot be exported.
    """
    config = read_config(source)
    return config, family(config, source.model_id)


def read_config(source: CheckpointSource) -> Any:
    """Reads config.json.

    Raises:
        ExportError: the file is not readable, needs code from its repository, has an unknown type, or names weights
            that an export would not read.
    """
    from transformers import CONFIG_MAPPING
    from transformers import __version__ as transformers_version

    (document, model_type), name = _read(source), source.model_id
    if model_type not in CONFIG_MAPPING and "auto_map" in document:
        raise ExportError(
            f"{name} needs code of its own ({model_type}), which is not run; export a model whose code is "
            "part of transformers"
        )
    if model_type not in CONFIG_MAPPING:
        raise ExportError(
            f"{name} is of type {model_type!r}, which transformers {transformers_version} does not know; "
            "`vitriton export --list` shows what can be exported"
        )
    with explained(f"transformers cannot read config.json of {name}", MEND):
        return CONFIG_MAPPING[model_type].from_dict(_without_forms(document) | {"model_type": model_type})


def _read(source: CheckpointSource) -> tuple[dict[str, Any], str]:
    """Returns the content of config.json and the model type, after checking the entries that need no library."""
    document, name = _documents.read(source.folder / "config.json", source.model_id), source.model_id
    model_type = _model_type(document, name)
    check_installed(model_type, name)
    _check(document, name)
    if model_type == TIMM and ":" in str(document.get("architecture")):  # hf-hub:… and local-dir:…
        raise ExportError(
            f"config.json of {name} has the architecture {_shown(document['architecture'])}, which timm would "
            "download from elsewhere; use an architecture that is part of timm"
        )
    return document, model_type


def _model_type(document: dict[str, Any], name: str) -> str:
    """Returns the model type; timm's own files lack it, and transformers adds it (configuration_utils.py)."""
    if "model_type" not in document and "pretrained_cfg" in document:
        return TIMM
    if "model_type" not in document:
        raise ExportError(f"config.json of {name} has no model_type, so it is not a transformers checkpoint")
    model_type = document["model_type"]
    if not isinstance(model_type, str):
        raise ExportError(f"config.json of {name} has the model_type {_shown(model_type)}, which must be a name")
    return model_type


def _check(document: dict[str, Any], name: str) -> None:
    for part in _parts(document):
        quantization = part.get("quantization_config")
        if quantization:
            method = quantization.get("quant_method") if isinstance(quantization, dict) else None
            raise ExportError(
                f"{name} is quantized (quantization_config in config.json"
                f"{f': {_shown(method)}' if method else ''}); export the original weights (--precision "
                "int8 quantizes them)"
            )
        for key, value in part.items():
            most = next((most for pattern, most in _COUNTS.items() if pattern.search(key)), None)
            if most is not None and any(not 0 <= number <= most for number in _numbers(value)):
                raise ExportError(f"config.json of {name} has {_shown(value)} for {key}; it must be from 0 to {most}")
    file = document.get("transformers_weights")
    if file is not None and file not in ENTRIES:
        raise ExportError(
            f"config.json of {name} has its weights in {_shown(file)} (transformers_weights), which an export does not "
            f"read; rename the file to {ENTRIES[0]}, and remove the entry"
        )
    if "configuration_files" in document:
        raise ExportError(
            f"config.json of {name} refers to other files (configuration_files), which an export does not read; "
            "replace it with the file that applies"
        )


def _parts(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the configuration and those of its towers."""
    yield document
    for key, value in document.items():
        if key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            yield from _parts(value)


def _without_forms(document: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_forms(value) if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in document.items()
        if key not in _FORMS
    }


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(each)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
