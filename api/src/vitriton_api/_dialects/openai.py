"""`POST /v1/embeddings`: OpenAI's form, with what other servers have added to it.

| form | whose |
|---|---|
| `input`: a string, or a list of strings | OpenAI |
| a string `data:image/…;base64,…` among them is an image | NVIDIA's NV-CLIP |
| `{"image": …}`, `{"text": …}` | Jina, SGLang |
| `modality`: "image" or "text", or a list of these | infinity, NVIDIA's NeMo |
| `messages` with one part of content | vLLM |
| `input_type`, `truncate`, `prompt_name` | NVIDIA, TEI |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from vitriton_api._dialects.images import of_image, of_text
from vitriton_api._dialects.parts import FUSED, of_part
from vitriton_api._dialects.request import (
    PROMPTS,
    AnswerRow,
    EmbeddingRequest,
    Fields,
    Input,
    Rules,
    Tower,
    check_count,
    json_object,
    kind_of,
    well_formed,
)
from vitriton_api._encodings import ENCODINGS, Encoding, encoded
from vitriton_api._errors import Fault, RequestRefused

INPUT_TYPES = ("query", "passage", "document")
TRUNCATE = ("END", "NONE")
FIELDS = (
    *("model", "input", "messages", "modality", "encoding_format", "dimensions", "user"),
    *("input_type", "prompt_name", "truncate", "on_error"),
)
_TOKENS = "token ids are not taken, as the model has a tokenizer of its own on the server; send the text"


def read(document: Any, rules: Rules) -> EmbeddingRequest:
    """Reads a request.

    Raises:
        RequestRefused: the request has a wrong form.
    """
    fields = Fields(json_object(document), FIELDS)
    model = fields.required("model")
    encoding = fields.choice("encoding_format", ENCODINGS) or "float"
    fields.text("user")
    input_type = fields.choice("input_type", INPUT_TYPES)
    return EmbeddingRequest(
        model=model,
        inputs=_inputs(fields, rules),
        encodings=(cast(Encoding, encoding),),
        dimensions=fields.number("dimensions"),
        prompts=PROMPTS[input_type] if input_type else (),
        prompt=fields.text("prompt_name"),
        cuts=fields.choice("truncate", TRUNCATE) != "NONE",
        null_rows=fields.choice("on_error", ("fail", "null")) == "null",
    )


def answer(request: EmbeddingRequest, rows: Sequence[AnswerRow]) -> dict[str, Any]:
    """The answer, as orjson takes it. `truncated` is only with a text that was cut, and `error` with a null row.

    Raises:
        RequestRefused: a vector has NaN or infinity.
    """
    (encoding,) = request.encodings
    tokens = sum(row.tokens for row in rows)
    images = sum(each.tower == "image" and row.fault is None for each, row in zip(request.inputs, rows, strict=True))
    return {
        "object": "list",
        "data": [_item(index, row, encoding) for index, row in enumerate(rows)],
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "images": images},
    }


def _item(index: int, row: AnswerRow, encoding: Encoding) -> dict[str, Any]:
    item: dict[str, Any] = {"object": "embedding", "index": index, "embedding": None}
    if row.vector is not None:
        item["embedding"] = encoded(row.vector, encoding)
    if row.fault is not None:
        item["error"] = {"message": row.fault.reason, "code": row.fault.code}
    if row.truncated:
        item["truncated"] = True
    return item


def _inputs(fields: Fields, rules: Rules) -> Sequence[Input]:
    if fields.has("messages"):
        if fields.has("input"):
            raise RequestRefused("input and messages are two forms of one thing; give one of them", param="messages")
        return _of_messages(fields.given["messages"], rules)
    value = fields.given.get("input")
    if value is None:
        raise RequestRefused("input is missing", code="missing_required_parameter", param="input")
    alone = not isinstance(value, list)
    items = [value] if alone else value
    if type(value) in (int, float):
        raise RequestRefused("input is a number; send a text", code="invalid_type", param="input")
    _refuse_tokens(items)
    check_count(items, rules, "input")
    each = enumerate(zip(items, _modalities(fields, len(items)), strict=True))
    return well_formed(
        _input(item, "input" if alone else f"input[{index}]", modality, rules) for index, (item, modality) in each
    )


def _input(item: Any, where: str, modality: Tower | None, rules: Rules) -> Input | Fault:
    if isinstance(item, str):
        if modality == "image":
            return of_image(item, where, rules)
        return of_text(item, where) if modality is None else Input(where, "text", item)
    if isinstance(item, dict):
        return _of_object(item, where, rules)
    return Fault(where, f"it is {kind_of(item)}; give a string, or an object with an image or a text")


def _of_object(item: Mapping[str, Any], where: str, rules: Rules) -> Input | Fault:
    given = {name: value for name, value in item.items() if value is not None}
    if given.keys() == {"image", "text"}:
        return Fault(where, FUSED)
    if len(given) != 1 or not given.keys() <= {"image", "text"}:
        return Fault(where, 'it must be {"image": ...} or {"text": ...}')
    ((name, value),) = given.items()
    if not isinstance(value, str):
        return Fault(where, f"its {name} is {kind_of(value)}; it must be a string")
    return Input(where, "text", value) if name == "text" else of_image(value, where, rules)


def _refuse_tokens(items: Sequence[Any]) -> None:
    """Token ids come as a list of numbers, or as a list of such lists."""
    first = items[0] if items else None
    if type(first) is int or isinstance(first, list):
        raise RequestRefused(f"input: {_TOKENS}", code="token_ids", param="input")


def _modalities(fields: Fields, count: int) -> Sequence[Tower | None]:
    value = fields.given.get("modality")
    each = value if isinstance(value, list) else [value] * count
    if len(each) != count:
        text = f"modality has {len(each)} entries for {count} inputs; give one for each, or one for all"
        raise RequestRefused(text, param="modality")
    allowed: tuple[Tower | None, ...] = ("image", "text") if isinstance(value, list) else ("image", "text", None)
    for one in each:
        if not (one is None or isinstance(one, str)) or one not in allowed:
            text = "modality must be image or text, or a list with one of these for each input"
            raise RequestRefused(text, param="modality")
    return each


def _of_messages(messages: Any, rules: Rules) -> Sequence[Input]:
    """The inputs of a conversation, which has one vector: so it must be one part."""
    parts = list(_parts(messages))
    check_count(parts, rules, "messages")
    if len(parts) > 1:
        raise RequestRefused(f"messages have {len(parts)} parts; {FUSED}", param="messages")
    return well_formed(part if isinstance(part, Fault) else of_part(part, where, rules) for where, part in parts)


def _parts(messages: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(messages, list):
        raise RequestRefused(f"messages is {kind_of(messages)}; it must be an array", param="messages")
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield f"{where}.content", {"type": "text", "text": content}
        elif isinstance(content, list):
            for place, part in enumerate(content):
                yield f"{where}.content[{place}]", part
        else:
            yield where, Fault(where, "it must be an object with content: a string, or a list of parts")
