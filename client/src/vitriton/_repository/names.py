"""The names of the models and tensors of an export, for all distributions.

An export with the name `m` has ensembles, which clients call, and their steps:

    m_pooled         image → m_preprocess → pixels → m_pooled_encoder   → embedding
    m_unpooled       image → m_preprocess → pixels → m_unpooled_encoder → last_hidden_state
    m_text_pooled    text → m_tokenize → input_ids, attention_mask → m_text_pooled_encoder   → embedding
    m_text_unpooled  text → m_tokenize → input_ids, attention_mask → m_text_unpooled_encoder → last_hidden_state

`ENSEMBLES` has a row for each. Code that runs inside Triton cannot import this module and repeats the tensor names; a
test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Tower = Literal["image", "text"]
Kind = Literal["pooled", "unpooled", "text_pooled", "text_unpooled"]

IMAGE = "image"
PIXELS = "pixels"
TEXT = "text"
INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
TOKEN_COUNTS = "token_counts"  # for each text: the tokens that the encoder gets, and those of the whole text


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A kind of ensemble.

    Attributes:
        tower: the tower of the model that it runs.
        pooled: whether it returns one vector for each input, and not all its tokens.
        input: the tensor that clients send.
        first_step: the suffix of the name of the first step, which the ensembles of a tower share.
        between: the tensors between the first step and the encoder.
        output: the tensor of the encoder that clients receive.
        beside: the tensors of the first step that clients receive as well.
    """

    tower: Tower
    pooled: bool
    input: str
    first_step: str
    between: tuple[str, ...]
    output: str
    beside: tuple[str, ...] = ()


def _image(*, pooled: bool, output: str) -> Ensemble:
    return Ensemble(
        tower="image", pooled=pooled, input=IMAGE, first_step="preprocess", between=(PIXELS,), output=output
    )


def _text(*, pooled: bool, output: str) -> Ensemble:
    return Ensemble(
        tower="text",
        pooled=pooled,
        input=TEXT,
        first_step="tokenize",
        between=(INPUT_IDS, ATTENTION_MASK),
        output=output,
        beside=(TOKEN_COUNTS,),
    )


ENSEMBLES: Mapping[Kind, Ensemble] = {
    "pooled": _image(pooled=True, output="embedding"),
    "unpooled": _image(pooled=False, output="last_hidden_state"),
    "text_pooled": _text(pooled=True, output="embedding"),
    "text_unpooled": _text(pooled=False, output="last_hidden_state"),
}
KINDS: tuple[Kind, ...] = tuple(ENSEMBLES)
OUTPUT: Mapping[Kind, str] = {kind: ensemble.output for kind, ensemble in ENSEMBLES.items()}


def kinds_of(tower: Tower) -> tuple[Kind, ...]:
    """The kinds of ensembles that run a tower, the pooled one first."""
    return tuple(kind for kind, ensemble in ENSEMBLES.items() if ensemble.tower == tower)


def kind_of(pool: bool, tower: Tower = "image") -> Kind:
    """The kind of ensemble that returns one vector for each input of a tower, or all its tokens."""
    pooled, unpooled = kinds_of(tower)
    return pooled if pool else unpooled


def ensemble_name(name: str, kind: Kind) -> str:
    """The name of the model that clients call."""
    return f"{name}_{kind}"


def first_step_name(name: str, kind: Kind = "pooled") -> str:
    """The name of the model that takes the clients' input."""
    return f"{name}_{ENSEMBLES[kind].first_step}"


def encoder_name(ensemble: str) -> str:
    """The name of the last step of an ensemble."""
    return f"{ensemble}_encoder"


def step_names(name: str, kind: Kind) -> tuple[str, str]:
    """The names of an ensemble's steps, in execution order."""
    return first_step_name(name, kind), encoder_name(ensemble_name(name, kind))


def model_names(name: str, kinds: Iterable[Kind] = KINDS) -> list[str]:
    """The names of all models of an export, steps before ensembles."""
    wanted = tuple(kinds)
    first_steps = dict.fromkeys(first_step_name(name, kind) for kind in wanted)
    ensembles = [ensemble_name(name, kind) for kind in wanted]
    return [*first_steps, *map(encoder_name, ensembles), *ensembles]


def read_ensemble_name(model: str) -> tuple[str, Kind] | None:
    """The export's name and the kind in a model's name; None if it is not the name of an ensemble."""
    for kind in sorted(KINDS, key=len, reverse=True):  # one kind's name may end with another's
        name = model.removesuffix(f"_{kind}")
        if name and name != model:
            return name, kind
    return None


A_PATH = "is a path, and a server has its models by name"  # what errors say where `is_path` holds


def is_path(text: str) -> bool:
    """Whether a text is the path of a folder, and neither the name of an export nor a hub id."""
    return text.startswith((".", "/", "~")) or text.count("/") > 1


def given_name(model: str) -> str:
    """The export's name, which users give, for the name of an ensemble; any other name stays as it is."""
    ensemble = read_ensemble_name(model)
    return model if ensemble is None else ensemble[0]
