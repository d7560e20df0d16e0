"""What every dialect becomes: one neutral request, and its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from vitriton._errors import Unreadable

from vitriton_api._encodings import Encoding, Vector
from vitriton_api._errors import Fault, RequestRefused, refused_form

Tower = Literal["image", "text"]


@dataclass(frozen=True, slots=True)
class Input:
    """One image or text of a request.

    Attributes:
        where: the part of the request, such as `input[3]`.
        tower: the tower that embeds it.
        value: the bytes or the URL of an image, or the text; or the reason why it cannot be used.
    """

    where: str
    tower: Tower
    value: bytes | str | Unreadable


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """A request for embeddings, whatever form it came in.

    Attributes:
        model: the name of the model.
        inputs: the images and texts.
        encodings: the forms in which the vectors are wanted.
        dimensions: the number of dimensions of a vector; None: those that the model has.
        prompts: the names of prompts, of which the first that the model has is put before the texts.
        prompt: the name of the prompt that the model must have; None: none is named.
        cuts: whether a text that is too long is cut, and not refused.
        null_rows: whether an input that cannot be used becomes a null in the answer, and does not fail the request.
    """

    model: str
    inputs: Sequence[Input]
    encodings: Sequence[Encoding] = ("float",)
    dimensions: int | None = None
    prompts: Sequence[str] = ()
    prompt: str | None = None
    cuts: bool = True
    null_rows: bool = False


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """What became of one input: `vector` or `fault` is None.

    Attributes:
        vector: the vector, (D,) float32.
        fault: the reason why there is none.
        tokens: the number of tokens of a text that the model used; 0 for an image.
        truncated: whether the text was cut.
    """

    vector: Vector | None
    fault: Fault | None
    tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the endpoint takes.

    Attributes:
        max_inputs: the largest number of inputs in a request.
        fetches_urls: whether an image may be a URL.
    """

    max_inputs: int
    fetches_urls: bool


# Names of the kinds of texts in the dialects → prompts of sentence-transformers that mean the same.
PROMPTS: Mapping[str, Sequence[str]] = {
    "query": ("query", "search_query"),
    "passage": ("passage", "document", "search_document"),
    "document": ("document", "passage", "search_document"),
    "search_query": ("search_query", "query"),
    "search_document": ("search_document", "document", "passage"),
    "classification": ("classification",),
    "clustering": ("clustering",),
    "image": (),
}


@dataclass
class Fields:
    """Reads the fields of a JSON object; a wrong one raises RequestRefused, which names it.

    Attributes:
        given: the object.
        known: the names that it may have.
    """

    given: Mapping[str, Any]
    known: Collection[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Refuses fields that the dialect does not have: a misspelled one would be ignored in silence."""
        unknown = [name for name in self.given if name not in self.known]
        if unknown:
            near = get_close_matches(unknown[0], self.known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            text = f"{_short(unknown[0])} is not a field of this request{hint}"
            raise RequestRefused(text, code="unknown_parameter", param=_short(unknown[0]))

    def has(self, name: str) -> bool:
        """Whether a field is there, and not null."""
        return self.given.get(name) is not None

    def text(self, name: str) -> str | None:
        """A field that is a string; None: it is not there."""
        value = self.given.get(name)
        if value is None or isinstance(value, str):
            return value
        raise _wrong(name, value, "a string")

    def required(self, name: str) -> str:
        """A field that is a string, and must be there."""
        value = self.text(name)
        if value is None:
            raise RequestRefused(f"{name} is missing", code="missing_required_parameter", param=name)
        return value

    def number(self, name: str) -> int | None:
        """A field that is a whole number above 0; None: it is not there."""
        value = self.given.get(name)
        if value is None or (type(value) is int and value > 0):
            return value
        raise _wrong(name, value, "a whole number above 0")

    def flag(self, name: str) -> bool | None:
        """A field that is true or false; None: it is not there."""
        value = self.given.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise _wrong(name, value, "true or false")

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        """A field that is one of a few strings; None: it is not there."""
        value = self.text(name)
        if value is None or value in choices:
            return value
        text = f"{name} is {_short(repr(value))}; it must be one of {', '.join(choices)}"
        raise RequestRefused(text, code="invalid_value", param=name)


def json_object(document: Any) -> Mapping[str, Any]:
    """The body, which must be a JSON object."""
    if isinstance(document, dict):
        return document
    raise RequestRefused(f"the body is {kind_of(document)}; it must be a JSON object", code="invalid_type")


def check_count(items: Sequence[Any], rules: Rules, where: str) -> None:
    """Checks the number of inputs.

    Raises:
        RequestRefused: there are none, or too many.
    """
    if not items:
        raise RequestRefused(f"{where} is empty; give at least one image or text", code="empty_array", param=where)
    if len(items) > rules.max_inputs:
        text = f"{where} has {len(items)} inputs, and this endpoint takes {rules.max_inputs} at a time; send fewer"
        raise RequestRefused(text, code="too_many_inputs", param=where)


def well_formed(read: Iterable[Input | Fault]) -> Sequence[Input]:
    """The inputs of a request.

    Raises:
        RequestRefused: some have a wrong form; it names all of them.
    """
    inputs: list[Input] = []
    faults: list[Fault] = []
    for each in read:
        if isinstance(each, Fault):
            faults.append(each)
        else:
            inputs.append(each)
    if faults:
        raise refused_form(faults)
    return inputs


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _wrong(name: str, value: Any, wanted: str) -> RequestRefused:
    shown = repr(value) if isinstance(value, (int, float)) else kind_of(value)
    return RequestRefused(f"{name} is {_short(shown)}; it must be {wanted}", code="invalid_type", param=name)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
