"""The facts about an architecture that an export needs and a checkpoint does not hold."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vitriton_export._errors import ExportError

POOLER = "pooler."  # the prefix of the names of a pooler's parameters

_OF_TOKENS = ("mean", "cls", "last", "max", "weighted-mean")
TRANSFORMER = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "image_size")

# Entries of a configuration that change no feature: names, notes, training, initial values, heads not exported.
_NOTES = frozenset(
    (
        "architectures",
        "auxiliary_channels",
        "auxiliary_concat_input",
        "auxiliary_loss",
        "auxiliary_num_convs",
        "bbox_cost",
        "class_cost",
        "classifier_activation",
        "dtype",
        "finetuning_task",
        "giou_cost",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "norm_pix_loss",
        "normalize_pixel_loss",
        "num_labels",
        "out_features",
        "out_indices",
        "pool_scales",
        "problem_type",
        "projection_dim",
        "return_dict",
        "stage_names",
        "task_specific_params",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_auxiliary_head",
        "use_cache",
    )
)
_NOTE_PARTS = ("dropout", "drop_path", "drop_rate", "layerdrop", "_loss", "loss_", "output_attentions", "output_hidden")


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """An architecture of transformers, as an export needs to know it.

    Attributes:
        computation: the entries of the configuration that change what it computes and do not show in the weights; None:
            all that differ from the defaults and are not notes.
        pooler_computation: the entries that change its pooler alone.
        pooler: the prefixes of the names of the pooler's parameters; empty without a pooler.
        unused: the parameters that inference does not read, so that a checkpoint may lack them.
        model: the class to load; None: AutoModel's choice.
        tower: the entry of the full model's configuration that holds the tower's.
        part: the attribute of the full model that is the tower, where a class of its own cannot load it.
        settings: the entries of the configuration that are set before the model is built.
        requires: the packages that the architecture needs beside those of transformers.
        extra: the extra of vitriton-export that installs them.
        note: the note for users.
    """

    computation: tuple[str, ...] | None = None
    pooler_computation: tuple[str, ...] = ()
    pooler: tuple[str, ...] = (POOLER,)
    unused: tuple[str, ...] = ()
    model: str | None = None
    tower: str | None = None
    part: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    extra: str = ""
    note: str = ""

    @property
    @abstractmethod
    def poolings(self) -> tuple[str, ...]:
        """The values of --pooling that the architecture allows."""

    def computes(self, config: Any, *, pooler: bool) -> dict[str, Any]:
        """Returns the entries of a configuration that change what is computed and do not show in the weights.

        Args:
            config: the transformers configuration of the model.
            pooler: whether the pooler makes the embedding.
        """
        if self.computation is not None:
            keys = (*self.computation, *(self.pooler_computation if pooler else ()))
            return {key: getattr(config, key) for key in keys}
        entries: dict[str, Any] = config.to_diff_dict()
        return {key: value for key, value in entries.items() if _counts(key)}


@dataclass(frozen=True, kw_only=True)
class Family(Architecture):
    """An architecture that takes images.

    Attributes:
        prefix: the tokens of last_hidden_state that come before the patches, in order.
        suffix: the tokens that come after the patches, in order.
        counts: the entries of the configuration with the number of tokens of each name; 1 without an entry.
        grid: whether each patch has a token, so that prefix and suffix can be checked.
        pooler_is_cls: whether the pooler has no parameters and returns the CLS token of last_hidden_state.
        projection: the source of the vector that is compared with text: a class that returns it as image_embeds,
            "pooler", or "get_image_features" of the full model.
        inputs: the kind of call: with pixel values, with a fixed order of patches (ViT-MAE), or with packed patches
            (NaFlex).
    """

    unused: tuple[str, ...] = ("embeddings.mask_token",)
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    counts: Mapping[str, str] = field(default_factory=dict)
    grid: bool = True
    pooler_is_cls: bool = False
    projection: str | None = None
    inputs: Literal["pixels", "ordered", "patches"] = "pixels"

    @property
    def has_cls(self) -> bool:
        """Whether the first token stands for the whole image."""
        return self.prefix[:1] == ("cls",)

    @property
    def poolings(self) -> tuple[str, ...]:
        """See `Architecture`."""
        choices = {"pooler": self.pooler, "cls": self.has_cls, "mean": True, "projection": self.projection}
        return ("auto", *(name for name, there in choices.items() if there))

    def tokens_before(self, config: Any) -> int:
        """Returns the number of tokens before the patches."""
        return self._count(self.prefix, config)

    def tokens_after(self, config: Any) -> int:
        """Returns the number of tokens after the patches."""
        return self._count(self.suffix, config)

    def _count(self, names: tuple[str, ...], config: Any) -> int:
        return sum(int(getattr(config, self.counts[name])) if name in self.counts else 1 for name in names)


@dataclass(frozen=True, kw_only=True)
class TextFamily(Architecture):
    """An architecture that takes texts.

    Attributes:
        pooling: the pooling of a checkpoint that does not say how its tokens are pooled; "projection", which has no
            other beside it, for a tower that shares a space with images.
        skipped_positions: the entry of the configuration with the number of the last position that is not used; None:
            all are used.
        fixed_length: whether the model was trained on texts of one length, whose padding it reads as tokens.
    """

    pooling: Literal["mean", "last", "projection"] = "mean"
    skipped_positions: str | None = None
    fixed_length: bool = False

    @property
    def poolings(self) -> tuple[str, ...]:
        """See `Architecture`."""
        if self.pooling == "projection":
            return ("auto", "projection")
        return ("auto", *(("pooler",) if self.pooler else ()), *_OF_TOKENS)


def lacking(known: Architecture) -> str | None:
    """Names the packages that an architecture needs and that are missing, with the command that installs them."""
    missing = [package for package in known.requires if importlib.util.find_spec(package) is None]
    if not missing:
        return None
    return (
        f"needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: `pip install "
        f"'vitriton-export[{known.extra}]' --extra-index-url ADDRESS`, with the index that torch came from "
        '("timm\'s models" in the documentation)'
    )


def check_pooling(asked: str, known: Architecture, model_id: str) -> None:
    """Checks that an architecture has what a pooling takes its vector from.

    Raises:
        ExportError: it does not; the text says which poolings it has.
    """
    if asked not in known.poolings:
        wanted = {"pooler": "pooler", "cls": "CLS token", "projection": "projection to compare with text"}
        wrong = f"has no {wanted[asked]}" if asked in wanted else f"takes images, and {asked} pools the tokens of texts"
        raise ExportError(f"{model_id} {wrong}; use --pooling {_other_poolings(known)}")


def _other_poolings(known: Architecture) -> str:
    *first, last = (pooling for pooling in known.poolings if pooling != "projection")
    return f"{', '.join(first)} or {last}"


def _counts(key: str) -> bool:
    return not key.startswith("_") and key not in _NOTES and not any(part in key for part in _NOTE_PARTS)
