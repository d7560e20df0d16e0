"""A folder of sentence-transformers: its modules after the transformer, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitriton_export import _documents
from vitriton_export._checkpoint.sentence_files import MODULES, SETTINGS, TRANSFORMER, modules
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._errors import ExportError

# sentence-transformers' names of poolings, in the order in which it joins several, and ours
_POOLINGS = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt-len",
    "weightedmean_tokens": "weighted-mean",
    "lasttoken": "last",
}
_FLAG = "pooling_mode_"
_MODES = {"cls": "cls", "max": "max", "mean": "mean", "mean_sqrt_len_tokens": "mean-sqrt-len"} | {
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
}


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What a folder of sentence-transformers says beside the transformer.

    Attributes:
        poolings: the poolings, whose vectors are joined in this order.
        dense: the folders of the Dense modules after the pooling, in order.
        normalizes: whether embeddings are scaled to length 1 at the end.
        max_length: the largest number of tokens; None: the tokenizer's and the model's own.
        lower_case: whether texts are put in lower case.
        prompts: the prefixes of texts, by the prompt's name.
        default_prompt: the name of the prompt that is used unless another is given; None: none.
    """

    poolings: tuple[str, ...]
    dense: tuple[Path, ...] = ()
    normalizes: bool = False
    max_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read(source: CheckpointSource) -> Sentence | None:
    """Reads the modules of a folder; None if it is not one of sentence-transformers.

    Raises:
        ExportError: the folder has a module or a setting that an export cannot represent; the text names it.
    """
    if not (source.folder / MODULES).is_file():
        return None
    poolings: tuple[str, ...] = ()
    dense: list[Path] = []
    normalizes = False
    for kind, path in modules(source.folder, source.model_id):
        if kind == "Transformer" and path:
            raise ExportError(
                f"{MODULES} of {source.where} has the transformer in the folder {path!r}; move its files to "
                'the folder above, and set its path to ""'
            )
        if normalizes and kind != "Normalize":
            raise ExportError(f"{MODULES} of {source.where} has {kind} after Normalize, which cannot be exported")
        if kind == "Pooling":
            poolings = _poolings(source, path)
        elif kind == "Dense":
            dense.append(source.folder / path)
        elif kind == "Normalize":
            normalizes = True
        elif kind != "Transformer":
            raise ExportError(
                f"{MODULES} of {source.where} has the module {kind}, which cannot be exported; Transformer, Pooling, "
                "Dense and Normalize can"
            )
    if not poolings:
        raise ExportError(f"{MODULES} of {source.where} has no Pooling, so it does not give one vector for each text")
    own = _optional(source, SETTINGS)
    transformer: dict[str, Any] = next(filter(None, (_optional(source, name) for name in TRANSFORMER)), {})
    prompts = {str(name): str(text) for name, text in (own.get("prompts") or {}).items() if text}
    default = own.get("default_prompt_name")
    return Sentence(
        poolings=poolings,
        dense=tuple(dense),
        normalizes=normalizes,
        max_length=transformer.get("max_seq_length"),
        lower_case=bool(transformer.get("do_lower_case")),
        prompts=prompts,
        default_prompt=default if default in prompts else None,
    )


def _poolings(source: CheckpointSource, path: str) -> tuple[str, ...]:
    config = _documents.read(source.folder / path / "config.json", source.model_id)
    where = f"{path}/config.json of {source.where}"
    modes = config.get("pooling_mode")
    if modes is not None:  # newer files name them
        named = [modes] if isinstance(modes, str) else modes
        unknown = [mode for mode in named if mode not in _MODES]
        chosen = [_MODES[mode] for mode in named if mode in _MODES]
    else:
        flags = [key.removeprefix(_FLAG) for key, on in config.items() if key.startswith(_FLAG) and on]
        unknown = [flag for flag in flags if flag not in _POOLINGS]
        chosen = [_POOLINGS[flag] for flag in _POOLINGS if flag in flags]
    if unknown or not chosen:
        wrong = f"has the pooling {unknown[0]!r}, which cannot be exported" if unknown else "names no pooling"
        raise ExportError(f"{where} {wrong}")
    if config.get("include_prompt") is False:
        raise ExportError(f"{where} leaves the prompt out of the pooling (include_prompt), which cannot be exported")
    return tuple(chosen)


def _optional(source: CheckpointSource, name: str) -> dict[str, Any]:
    path = source.folder / name
    return _documents.read(path, source.model_id) if path.is_file() else {}
