"""The names of the models and tensors of an export, for all distributions.

An export with the name `m` has ensembles, which clients call, and their steps:

    m_pooled      image → m_preprocess → pixels → m_pooled_encoder   → embedding
    m_unpooled    image → m_preprocess → pixels → m_unpooled_encoder → last_hidden_state

`ENSEMBLES` has a row for each. Code that runs inside Triton cannot import this module and repeats the tensor names; a
test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["pooled", "unpooled"]

IMAGE = "image"
PIXELS = "pixels"


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A kind of ensemble.

    Attributes:
        input: the tensor that clients send.
        first_step: the suffix of the name of the first step, which the ensembles of an export share.
        between: the tensor between the first step and the encoder.
        output: the tensor that clients receive.
    """

    input: str
    first_step: str
    between: str
    output: str


ENSEMBLES: Mapping[Kind, Ensemble] = {
    "pooled": Ensemble(input=IMAGE, first_step="preprocess", between=PIXELS, output="embedding"),
    "unpooled": Ensemble(input=IMAGE, first_step="preprocess", between=PIXELS, output="last_hidden_state"),
}
KINDS: tuple[Kind, ...] = tuple(ENSEMBLES)
OUTPUT: Mapping[Kind, str] = {kind: ensemble.output for kind, ensemble in ENSEMBLES.items()}


def kind_of(pool: bool) -> Kind:
    """The kind of ensemble that returns one vector an image, or all its tokens."""
    return "pooled" if pool else "unpooled"


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


def given_name(model: str) -> str:
    """The export's name, which users give, for the name of an ensemble; any other name stays as it is."""
    ensemble = read_ensemble_name(model)
    return model if ensemble is None else ensemble[0]
