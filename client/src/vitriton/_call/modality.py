"""What differs between images and texts in a call. Everything else in `_call` treats both as inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vitriton._call.results import Answer
from vitriton._call.settings import Settings
from vitriton._errors import Unreadable
from vitriton._images.reading import Encode
from vitriton._images.sources import as_images, is_one, source_name
from vitriton._repository.names import ENSEMBLES, Tower
from vitriton._served.contract import Contract, read_reply, read_token_counts
from vitriton._texts import as_texts, encode_text
from vitriton._wire.transport import InferReply

Prepare = Callable[[Any], "bytes | Unreadable | None"]


@dataclass(frozen=True)
class Service:
    """A model to call, and the client's own preprocessing.

    Attributes:
        contract: the contract of the model.
        encode: the function that turns an encoded image into pixels; None if the server does that.
    """

    contract: Contract
    encode: Encode | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Modality:
    """One of the two kinds of inputs. `IMAGES` and `TEXTS` are all there are.

    Attributes:
        tower: the tower of a model that embeds these inputs, which is also the noun for one of them.
        listed: the function that turns the argument of a call into its inputs and their number, or raises TypeError.
        is_one: the function that tells whether the argument of a call is a single input.
        source: the function that names an input in messages.
        preparing: the function that makes, for one call, the function from an input to the bytes to send, or to the
            reason why there are none; None means that the input must be read first, on a thread.
        answer: the function that reads a reply.
        ragged: whether inputs differ in their number of tokens, so that those of several fit in no array.
    """

    tower: Tower
    listed: Callable[[Any], tuple[Iterable[Any], int | None]]
    is_one: Callable[[Any], bool]
    source: Callable[[Any], str]
    preparing: Callable[[Service, Settings, str | None], Prepare]
    answer: Callable[[InferReply, Contract, int], Answer]
    ragged: bool


def _image_source(image: Any) -> str:
    return "bytes" if type(image) is bytes else source_name(image)


def _preparing_images(service: Service, settings: Settings, prompt: str | None) -> Prepare:
    """Bytes are sent as they are; all other images have to be read, or encoded."""
    if service.encode is not None:
        return lambda image: None
    limit = settings.options.max_image_bytes
    return lambda image: image if type(image) is bytes and len(image) <= limit else None


def _image_answer(reply: InferReply, contract: Contract, count: int) -> Answer:
    return Answer(read_reply(reply, contract, count))


def _preparing_texts(service: Service, settings: Settings, prompt: str | None) -> Prepare:
    rules = service.contract.texts
    assert rules is not None  # as in every contract for texts
    if settings.preprocess == "client":
        raise ValueError("preprocess is 'client', and texts are tokenized on the server; make a client without it")
    prefix = rules.prefix(prompt)
    return lambda text: encode_text(text, prefix, rules.max_text_bytes)


def _text_answer(reply: InferReply, contract: Contract, count: int) -> Answer:
    """Drops the rows behind a text's last token, which pad it to the longest text of the request."""
    rows = read_reply(reply, contract, count)
    used, whole = read_token_counts(reply, contract, count).T
    if ENSEMBLES[contract.kind].pooled:
        return Answer(rows, used.tolist(), whole.tolist())
    if used.min() < 0 or used.max() > rows.shape[1]:
        raise contract.mismatch(f"returned {rows.shape[1]} rows for a text of {used.max()} tokens")
    return Answer([row[:tokens] for row, tokens in zip(rows, used, strict=True)], used.tolist(), whole.tolist())


IMAGES = Modality(
    tower="image",
    listed=as_images,
    is_one=is_one,
    source=_image_source,
    preparing=_preparing_images,
    answer=_image_answer,
    ragged=False,
)
TEXTS = Modality(
    tower="text",
    listed=as_texts,
    is_one=lambda texts: isinstance(texts, str),
    source=lambda text: "",
    preparing=_preparing_texts,
    answer=_text_answer,
    ragged=True,
)
