"""The model with its weights; transformers' loading report decides whether an export goes on."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vitriton_export._checkpoint import heads
from vitriton_export._checkpoint.config import MEND, read_config
from vitriton_export._checkpoint.families import Architecture
from vitriton_export._checkpoint.heads import Head
from vitriton_export._checkpoint.source import CheckpointSource, fetch_weights
from vitriton_export._checkpoint.weights import Weights
from vitriton_export._errors import ExportError, explained, one_line

# A pooler that the checkpoint lacks is random; a fixed seed makes it the same noise each time.
_SEED = 0

# Tensors that change others on loading: adapters that were not merged, and scales of quantized weights
_UNMERGED = re.compile(r"\b(lora_|base_layer\.|ia3_|hada_|lokr_|oft_|vera_|boft_)|\.adapters\.")
_SCALES = re.compile(r"\.(SCB|absmax|quant_map|quant_state|qweight|qzeros|weight_scale|weight_format)\b")
_QUANTIZED = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)
_COUNTED = ".num_batches_tracked"  # a counter in batch norms, whose statistics do not need it


@dataclass(frozen=True)
class Loaded:
    """A loaded model.

    Attributes:
        model: the transformers model in float32, in evaluation mode.
        missing: the parameters that the checkpoint lacks and that are random; only a pooler may have any.
        warnings: the warnings for the user.
        head: the head that the weights hold and the model does not have, or None.
    """

    model: PreTrainedModel
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    head: Head | None


def load_model(source: CheckpointSource, known: Architecture, pooler: tuple[str, ...]) -> Loaded:
    """Loads the model of a family.

    Args:
        source: the checkpoint; its weights are found here unless they already are.
        known: the family of the model.
        pooler: the prefixes of the names of weights that may be missing.

    Raises:
        ExportError: transformers cannot load it, or the weights do not belong to the model.
    """
    if source.weights is None:
        source = fetch_weights(source)
    weights = source.weights or Weights(())
    name, model_class = source.model_id, _class(known)
    _check_pickles(weights, name)
    with quiet(), explained(f"transformers cannot build a {known.model or 'model'} by config.json of {name}", MEND):
        config = _config(source, known)
        _check_size(model_class, config, weights, name)
    with quiet():
        model, report = _read(model_class, config, source, weights)
    _check_fit(report, name)
    missing = [key for key in report["missing_keys"] if not key.endswith(_COUNTED)]
    inner = (known.part or (known.tower or "").replace("_config", "_model"), model.base_model_prefix)
    if known.part is not None:
        start = f"{known.part}."
        model = getattr(model, known.part)
        missing = [key.removeprefix(start) for key in missing if key.startswith(start)]
    missing = sorted(set(missing) - set(known.unused))
    others = [key for key in missing if not (pooler and key.startswith(pooler))]
    if others:
        raise ExportError(
            f"{name} lacks {_count(others, 'weight')} of {type(model).__name__}, which would be random: {_few(others)}"
            f"; {_remedy(others, report['unexpected_keys'], inner)}"
        )
    unread = report["unexpected_keys"]
    layers = _layers(model, unread)
    told = (*_warnings(source, weights, layers), *_part_of_pooler(model, missing, pooler, name))
    passed_over = _shapes(weights, set(unread) - {*layers})
    head = heads.find(read_config(source), model, passed_over, is_tower=known.tower is not None)
    return Loaded(model.eval(), tuple(missing), told, head)


def not_finite(model: nn.Module) -> str:
    """Says why a model's outputs are not finite, as the end of a sentence."""
    tensors = model.state_dict().items()
    first = next((name for name, tensor in tensors if not torch.isfinite(tensor).all()), None)
    if first is None:
        return "its weights or its config.json are damaged"
    return f"its weights are damaged: the first tensor with such a value is {first}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' notices and bars, and Python's warnings, off the terminal; an export reports what matters."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)  # what it logs as an error comes back as one
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def _class(known: Architecture) -> Any:
    return AutoModel if known.model is None else getattr(transformers, known.model)


def _config(source: CheckpointSource, known: Architecture) -> Any:
    config = read_config(source)
    if known.tower is not None and known.part is None:
        full, config = config, getattr(config, known.tower)
        if hasattr(full, "projection_dim"):  # text is projected to it; the tower's own entry may be a default
            config.projection_dim = full.projection_dim
    for name, value in known.settings.items():
        setattr(config, name, value)
    return config


def _check_size(model_class: Any, config: Any, weights: Weights, name: str) -> None:
    """Refuses a model of more parameters than the files have bytes: it is not theirs, and may not fit into memory."""
    with torch.device("meta"):
        model = model_class.from_config(config) if model_class is AutoModel else model_class(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > weights.nbytes:
        raise ExportError(
            f"config.json of {name} describes a model of {parameters:,} parameters, and its weights have "
            f"{weights.nbytes:,} bytes; they do not belong to the same model"
        )


def _check_pickles(weights: Weights, name: str) -> None:
    """Checks pickles as `_weights.find` checks safetensors, which can hold nothing but tensors by name."""
    for path in weights.files:
        if path.suffix == ".safetensors":
            continue
        try:
            tensors = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception:  # transformers reads it next, and `_read` says what is wrong
            return
        _check_names(tensors, path.name, name)
        quantized = [key for key, value in tensors.items() if getattr(value, "dtype", None) in _QUANTIZED]
        if quantized:
            raise ExportError(
                f"{path.name} of {name} is quantized: {len(quantized)} of {len(tensors)} tensors "
                f"{'is' if len(quantized) == 1 else 'are'} "
                f"{str(tensors[quantized[0]].dtype).removeprefix('torch.')} ({_few(quantized)}); export the original "
                "weights (--precision int8 quantizes them)"
            )


def _check_names(content: Any, file: str, name: str) -> None:
    """Refuses content that is not a dictionary of tensors, or has it one level below, as training checkpoints do."""
    if not isinstance(content, Mapping):
        raise ExportError(
            f"{file} of {name} holds an object of type {type(content).__name__} instead of tensors by their names; "
            "save the model's state_dict(), or write the folder with save_pretrained"
        )
    inner = [key for key, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)]
    if inner:
        raise ExportError(
            f"{file} of {name} has its weights one level down, in the entry {inner[0]!r}; save that entry alone: "
            f"torch.save(torch.load(file)[{inner[0]!r}], file)"
        )
    if not all(isinstance(key, str) for key in content) or not _has_tensors(content):
        raise ExportError(
            f"{file} of {name} does not hold tensors by their names; save the model's state_dict(), or write the "
            "folder with save_pretrained"
        )


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())


def _read(model_class: Any, config: Any, source: CheckpointSource, weights: Weights) -> tuple[Any, dict[str, Any]]:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model, report = model_class.from_pretrained(
                source.folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the report has them, and they are refused by name
                trust_remote_code=False,
                local_files_only=True,
            )
    except Exception as exc:
        file = weights.files[0] if weights.files else None
        if file is not None and file.suffix == ".bin":  # torch's own text advises running the code in it
            raise ExportError(
                f"{file.name} of {source.model_id} cannot be read: it is damaged, or it holds more than tensors, and "
                "its code is not run; download it again, or write it with save_pretrained where it was trained"
            ) from exc
        raise ExportError(f"transformers cannot load {source.model_id}: {one_line(exc)}") from exc
    return model, report


def _check_fit(report: dict[str, Any], name: str) -> None:
    """Refuses weights of other shapes, and weights with an unmerged adapter or separate scales."""
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        sizes = [f"{key} is {tuple(file)} in the file and {tuple(own)} by config.json" for key, file, own in mismatched]
        raise ExportError(
            f"{_count(mismatched, 'weight')} {'does' if len(mismatched) == 1 else 'do'} not fit config.json of {name}: "
            f"{'; '.join(sizes[:3])}"
            f"{'; …' if len(sizes) > 3 else ''}"
        )
    unexpected = sorted(report["unexpected_keys"])
    unmerged = [key for key in unexpected if _UNMERGED.search(key)]
    if unmerged:
        raise ExportError(
            f"the weights of {name} hold {_count(unmerged, 'tensor')} of an adapter that is not merged: "
            f"{_few(unmerged)}; merge it (merge_and_unload of peft), and export what save_pretrained writes then"
        )
    scales = [key for key in unexpected if _SCALES.search(key)]
    if scales:
        raise ExportError(
            f"the weights of {name} are quantized: they have {_few(scales)}; export the original weights (--precision "
            "int8 quantizes them)"
        )


def _remedy(missing: list[str], unexpected: Collection[str], inner: Sequence[str]) -> str:
    """Says what to do about missing weights, which the file may have under names with a prefix.

    Args:
        missing: the names of the missing weights.
        unexpected: the names in the file that the model does not have.
        inner: the names of the base model in a model with a head, and of a vision tower in a whole model.
    """
    starts = Counter(start for key in unexpected if (start := _start(key, set(missing))))
    if not starts:
        return "save the whole model with save_pretrained, or correct config.json if it describes another model"
    start, count = starts.most_common(1)[0]
    for each in inner:
        if each and start.endswith(f".{each}."):
            start = start.removesuffix(f"{each}.")
    return (
        f"the file has {count} of them under names that begin with {start!r}: remove this prefix from the names, "
        "and save again"
    )


def _start(key: str, wanted: Collection[str]) -> str | None:
    """Returns the part of a name before the name of a wanted weight; None if it ends in no such name."""
    parts = key.split(".")
    ends = (".".join(parts[at:]) for at in range(1, len(parts)))
    end = next((end for end in ends if end in wanted), None)
    return None if end is None else key.removesuffix(end)


def _shapes(weights: Weights, names: Set[str]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of weights in the files; empty ones for names that transformers has changed."""
    found: dict[str, tuple[int, ...]] = dict.fromkeys(sorted(names), ())
    for path in weights.files if names else ():
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                there = {name: tensors.get_slice(name).get_shape() for name in names & set(tensors.keys())}
        else:
            tensors = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
            there = {name: tensors[name].shape for name in names & tensors.keys()}
        found |= {name: tuple(shape) for name, shape in there.items()}
    return found


def _layers(model: nn.Module, unexpected: Collection[str]) -> list[str]:
    """The weights of layers that config.json leaves out."""
    forms = {_form(key) for key in model.state_dict()}
    emptied = tuple(
        f"{key}." for key, part in model.named_modules() if isinstance(part, nn.ModuleList) and not len(part)
    )
    return sorted(key for key in unexpected if _form(key) != key and (_form(key) in forms or key.startswith(emptied)))


def _warnings(source: CheckpointSource, weights: Weights, layers: list[str]) -> Iterator[str]:
    if weights.passed_over:
        *others, last = weights.passed_over
        names = f"{', '.join(others)} and {last}" if others else last
        yield (
            f"{source.where} also holds {names}, which {'are' if others else 'is'} not read: as in transformers the "
            f"weights are those of {weights.files[0].name}{' and its shards' if len(weights.files) > 1 else ''}"
        )
    if layers:
        yield (
            f"config.json of {source.model_id} has fewer layers than the weights: {_count(layers, 'tensor')} "
            f"{'is' if len(layers) == 1 else 'are'} not read, "
            f"as in transformers ({_few(layers)})"
        )


def _part_of_pooler(model: Any, missing: list[str], pooler: tuple[str, ...], name: str) -> Iterator[str]:
    """Warns of a pooler of which a part is missing: a pooler that is missing as a whole was simply never trained."""
    own = {key for key in model.state_dict() if pooler and key.startswith(pooler) and not key.endswith(_COUNTED)}
    if missing and own - set(missing):
        yield (
            f"{name} has only a part of its pooler and lacks {_few(missing)}: the pooler counts as untrained, and "
            "--pooling auto does not use it"
        )


def _form(key: str) -> str:
    return re.sub(r"\b\d+\b", "#", key)


def _count(things: Sequence[object], one: str) -> str:
    return f"{len(things)} {one}{'' if len(things) == 1 else 's'}"


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
