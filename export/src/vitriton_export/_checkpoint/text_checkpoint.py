"""A checkpoint of a model that takes texts: its transformer, its tokenizer, and what follows its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, normalizers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from vitriton_export import _documents
from vitriton_export._checkpoint import sentence as _sentence
from vitriton_export._checkpoint.config import read_config
from vitriton_export._checkpoint.families import TextFamily, check_pooling
from vitriton_export._checkpoint.heads import Head
from vitriton_export._checkpoint.loading import load_model, quiet
from vitriton_export._checkpoint.sentence import Sentence
from vitriton_export._checkpoint.source import CheckpointSource
from vitriton_export._checkpoint.text_architectures import TEXT_FAMILIES, TEXT_TOWERS
from vitriton_export._checkpoint.two_towers import TwoTowers
from vitriton_export._errors import ExportError, OptionError, explained
from vitriton_export._options import ExportOptions
from vitriton_export.triton.tokenize.vitriton_tokenizing import TOKENIZER, TokenizeSpec

_MAX_LENGTH = 8192  # where neither the checkpoint nor an option says less
_NO_LIMIT = 1_000_000  # transformers writes 10**30 for a tokenizer without a limit
_ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU, "Sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class TextOutline:
    """The facts in the small files of a checkpoint, read before any weights.

    Attributes:
        config: the configuration of the model.
        family: the family of the architecture.
        tokenizer: transformers' tokenizer, with its fast form.
        spec: the settings of the tokenize step.
        sentence: what sentence-transformers' files say; None without them.
    """

    config: Any
    family: TextFamily
    tokenizer: Any
    spec: TokenizeSpec
    sentence: Sentence | None


@dataclass(frozen=True)
class TextCheckpoint:
    """A loaded model that takes texts.

    Attributes:
        source: the checkpoint's files.
        model: the transformers model in float32, in evaluation mode.
        outline: the facts in its small files.
        dense: the layers after the pooling.
        untrained_pooler: the names of the pooler's parameters that the checkpoint lacks.
        warnings: the warnings about the weights.
        head: the head that is not exported, or None.
    """

    source: CheckpointSource
    model: PreTrainedModel
    outline: TextOutline
    dense: nn.Sequential
    untrained_pooler: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    head: Head | None = None


def outline(source: CheckpointSource, options: ExportOptions) -> TextOutline:
    """Decides from the small files whether a checkpoint can be exported; reads no weights.

    Raises:
        ExportError: the checkpoint cannot be exported, or not with these options.
    """
    with quiet():
        config = read_config(source)
    if config.model_type in TEXT_FAMILIES:
        known, sentence = TEXT_FAMILIES[config.model_type], _sentence.read(source)
    else:
        known, sentence, config = TEXT_TOWERS[config.model_type], None, config.text_config
    check_pooling(options.pooling, known, source.model_id)
    tokenizer = _load_tokenizer(source)
    if sentence is not None and sentence.lower_case:
        _lower_case(tokenizer.backend_tokenizer)
    if known.fixed_length and tokenizer.padding_side != "right":
        raise ExportError(
            f"the tokenizer of {source.model_id} pads texts on the {tokenizer.padding_side}, and a server pads them on "
            "the right; set padding_side in tokenizer_config.json to the side of the model's training"
        )
    spec = TokenizeSpec(
        max_length=_max_length(options, config, known, tokenizer, sentence),
        truncation_side=tokenizer.truncation_side,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        fixed_length=known.fixed_length,
        max_text_bytes=options.max_text_bytes,
    )
    return TextOutline(config, known, tokenizer, spec, sentence)


def _load_tokenizer(source: CheckpointSource) -> Any:
    with quiet(), explained(f"transformers cannot load the tokenizer of {source.model_id}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    # without any of these files, transformers makes a tokenizer that knows no words
    if not any((source.folder / name).is_file() for name in (TOKENIZER, *tokenizer.vocab_files_names.values())):
        raise ExportError(
            f"{source.where} has no {TOKENIZER}, so nothing says how its texts are tokenized; write one with the "
            "tokenizer's save_pretrained"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(
            f"the tokenizer of {source.model_id} ({type(tokenizer).__name__}) has no fast form (tokenizer.json), which "
            "is what a server runs; convert it where it was made, and save it with save_pretrained"
        )
    return tokenizer


def load(source: CheckpointSource, options: ExportOptions, towers: TwoTowers | None = None) -> TextCheckpoint:
    """Loads the model, its tokenizer and the layers after its tokens.

    Args:
        source: the checkpoint.
        options: the options of the export.
        towers: the loaded model, if it has two towers; None: it is loaded here.

    Raises:
        ExportError: the checkpoint cannot be loaded, or lacks weights that inference needs.
    """
    small = outline(source, options)
    if towers is not None:
        return TextCheckpoint(source, towers.text, small, nn.Sequential(), (), towers.warnings)
    loaded = load_model(source, small.family, small.family.pooler)
    if hasattr(loaded.model.config, "use_cache"):
        loaded.model.config.use_cache = False  # there is no next token
    folders = () if small.sentence is None else small.sentence.dense
    dense = nn.Sequential(*(layer for folder in folders for layer in _dense(folder, source)))
    return TextCheckpoint(source, loaded.model, small, dense.eval(), loaded.missing, loaded.warnings, loaded.head)


def poolings(options: ExportOptions, checkpoint: TextCheckpoint) -> tuple[tuple[str, ...], str]:
    """Returns the poolings of an export, and why they were chosen.

    Raises:
        ExportError: the model does not have the requested pooling, or its pooler is untrained.
    """
    asked, small, model_id = options.pooling, checkpoint.outline, checkpoint.source.model_id
    if small.family.pooling == "projection":
        return ("projection",), ""
    if asked == "auto" and small.sentence is not None:
        return small.sentence.poolings, "as its sentence-transformers files say"
    if asked == "auto":
        return (small.family.pooling,), (
            "as the checkpoint does not say how its tokens make one vector; "
            + (
                "a causal model has seen the whole text at its last token"
                if small.family.pooling == "last"
                else "sentence-transformers does the same"
            )
        )
    if asked == "pooler" and checkpoint.untrained_pooler and not options.allow_untrained_pooler:
        raise ExportError(
            f"the pooler of {model_id} is untrained: the checkpoint has no {checkpoint.untrained_pooler[0]}, so its "
            "output would be random; use --pooling auto, cls or mean (--allow-untrained-pooler exports it nevertheless)"
        )
    if small.sentence is not None and small.sentence.poolings != (asked,):
        return (asked,), f"in place of {'+'.join(small.sentence.poolings)}, which its sentence-transformers files say"
    return (asked,), ""


def _max_length(
    options: ExportOptions, config: Any, known: TextFamily, tokenizer: Any, sentence: Sentence | None
) -> int:
    skipped = 0 if known.skipped_positions is None else 1 + int(getattr(config, known.skipped_positions) or 0)
    positions = getattr(config, "max_position_embeddings", None) or _NO_LIMIT + skipped
    most = int(positions) - skipped
    if options.max_length is not None and known.fixed_length:
        raise OptionError("max_length", "is given, and the model takes texts of one length; leave it out")
    if options.max_length is not None:
        if options.max_length > most:
            raise OptionError("max_length", f"is {options.max_length}, and the model has {most} positions")
        added = int(tokenizer.num_special_tokens_to_add())
        if options.max_length <= added:
            raise OptionError(
                "max_length",
                f"is {options.max_length}, and the tokenizer adds {added} special tokens to each text, so no room is "
                f"left for the text itself; give {added + 1} or more",
            )
        return options.max_length
    own = [most, _MAX_LENGTH]
    if sentence is not None and sentence.max_length is not None:
        own.append(int(sentence.max_length))
    elif tokenizer.model_max_length < _NO_LIMIT:
        own.append(int(tokenizer.model_max_length))
    return min(own)


def _lower_case(tokenizer: Tokenizer) -> None:
    before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])


def _dense(folder: Path, source: CheckpointSource) -> list[nn.Module]:
    """Reads a Dense module: a linear layer and its activation."""
    config = _documents.read(folder / "config.json", source.model_id)
    where = f"{folder.name} of {source.where}"
    with explained(f"the Dense module in {where} cannot be read"):
        layer = nn.Linear(int(config["in_features"]), int(config["out_features"]), bias=bool(config.get("bias", True)))
        state = (
            load_file(folder / "model.safetensors")
            if (folder / "model.safetensors").is_file()
            else torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        )
        layer.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in state.items()})
    name = str(config.get("activation_function", "torch.nn.modules.linear.Identity")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ExportError(
            f"the Dense module in {where} has the activation {name}; {', '.join(_ACTIVATIONS)} can be exported"
        )
    return [layer, _ACTIVATIONS[name]()]
