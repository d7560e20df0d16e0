"""The comparison of the arguments for transformers' tokenizers with what a served model does to texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from vitriton._errors import InputProblem, InvalidText, PipelineMismatch
from vitriton._pipeline.served import ServedModel

_LOG = logging.getLogger("vitriton")

_CUT = (True, "longest_first", "only_first")  # these are the same for a text that is not one of a pair
_WHOLE = (False, None, "do_not_truncate")

# Arguments of a tokenizer's call with the values that change nothing, for a text that is alone in its batch.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "is_split_into_words": (False,),
    "pad_to_multiple_of": (None,),
    "padding": (False, True, "longest", "do_not_pad"),
    "return_attention_mask": (None, True),
    "return_overflowing_tokens": (False,),
    "stride": (0,),
    "verbose": (False, True),
}


def given_settings(truncation: Any, tokenize_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings for tokenizing in the arguments of a call; `truncation` is one of them.

    Raises:
        ValueError: truncation is given twice.
    """
    settings = dict(tokenize_kwargs or {})
    if truncation is not None:
        if "truncation" in settings:
            raise ValueError("truncation is given twice: as an argument of its own, and in tokenize_kwargs")
        settings["truncation"] = truncation
    return settings


def check_tokenizing(served: ServedModel, settings: Mapping[str, Any]) -> None:
    """Checks that the served model tokenizes as the settings say.

    Raises:
        ValueError: truncation has a value that no text alone can have.
        PipelineMismatch: the served model does something else.
    """
    for name, value in settings.items():
        asked = f"tokenize_kwargs[{name!r}] is {value!r}"
        if name == "truncation":
            if not isinstance(value, (bool, str, type(None))) or value not in _CUT + _WHOLE:
                known = ", ".join(map(repr, _CUT + _WHOLE))
                raise ValueError(f"truncation is {value!r}; it must be one of {known}")
        elif name == "max_length":
            if value not in (None, _max_length(served)):
                has = f"cuts texts at {_max_length(served)} tokens"
                remedy = f"leave it out, or export the model with --max-length {value}, under another name"
                raise _mismatch(served, asked, has, remedy)
        elif value not in _NEUTRAL.get(name, ()):
            raise _mismatch(served, asked, "tokenizes each text alone, as it was exported", "leave it out")


def cuts(settings: Mapping[str, Any]) -> bool:
    """Whether a text with too many tokens is to be cut. As in transformers, a max_length alone says so, too."""
    truncation = settings.get("truncation")
    if truncation is None:
        return settings.get("max_length") is not None and settings.get("padding", False) is False
    return truncation in _CUT


def too_long(served: ServedModel, index: int, tokens: int | None) -> InvalidText:
    """The error for a text of so many tokens that the server has cut, where it was not to be cut."""
    reason = (
        f"has {tokens} tokens, and model {served.name} takes {_max_length(served)}; pass truncation=True to have it "
        "cut, or export the model with a larger --max-length"
    )
    return InvalidText([InputProblem(index, "", reason, "too_large")], address=served.address, model=served.name)


def tell_of_cuts(served: ServedModel) -> None:
    """Logs that texts are cut, and where: transformers may cut at another length."""
    _LOG.warning(
        "texts are cut at %s tokens, the length of the export of model %s; transformers cuts at the tokenizer's own "
        "length, and `vitriton export --max-length` sets another",
        _max_length(served),
        served.name,
    )


def _max_length(served: ServedModel) -> int | None:
    return None if served.texts is None else served.texts.max_length


def _mismatch(served: ServedModel, asked: str, has: str, remedy: str) -> PipelineMismatch:
    return PipelineMismatch(f"{asked}, and {served} {has}; {remedy}", address=served.address, model=served.name)
