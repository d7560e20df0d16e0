"""`POST /v2/embed`: Cohere's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from vitriton_api._dialects.images import of_image
from vitriton_api._dialects.parts import FUSED, of_part
from vitriton_api._dialects.request import (
    PROMPTS,
    AnswerRow,
    EmbeddingRequest,
    Fields,
    Input,
    Rules,
    check_count,
    json_object,
    kind_of,
    well_formed,
)
from vitriton_api._encodings import ENCODINGS, Encoding, encoded
from vitriton_api._errors import Fault, RequestRefused

INPUT_TYPES = ("search_document", "search_query", "classification", "clustering", "image")
TRUNCATE = ("END", "NONE")
SOURCES = ("inputs", "texts", "images")
FIELDS = ("model", *SOURCES, "input_type", "embedding_types", "output_dimension", "truncate", "on_error")


def read(document: Any, rules: Rules) -> EmbeddingRequest:
    """Reads a request.

    Raises:
        RequestRefused: the request has a wrong form.
    """
    fields = Fields(json_object(document), FIELDS)
    model = fields.required("model")
    input_type = fields.choice("input_type", INPUT_TYPES)
    return EmbeddingRequest(
        model=model,
        inputs=_inputs(fields, rules),
        encodings=_encodings(fields),
        dimensions=fields.number("output_dimension"),
        prompts=PROMPTS[input_type] if input_type else (),
        cuts=fields.choice("truncate", TRUNCATE) != "NONE",
        null_rows=fields.choice("on_error", ("fail", "null")) == "null",
    )


def answer(request: EmbeddingRequest, rows: Sequence[AnswerRow]) -> dict[str, Any]:
    """The answer, as orjson takes it. `truncated` lists the texts that were cut, if there are any, by their index.

    Raises:
        RequestRefused: a vector has NaN or infinity.
    """
    images = sum(each.tower == "image" and row.fault is None for each, row in zip(request.inputs, rows, strict=True))
    written: dict[str, Any] = {
        "id": str(uuid4()),
        "response_type": "embeddings_by_type",
        "embeddings": {
            encoding: [None if row.vector is None else encoded(row.vector, encoding) for row in rows]
            for encoding in request.encodings
        },
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": sum(row.tokens for row in rows), "images": images},
        },
    }
    if any(row.truncated for row in rows):
        written["truncated"] = [index for index, row in enumerate(rows) if row.truncated]
    if any(row.fault for row in rows):
        written["errors"] = [
            {"index": index, "message": row.fault.reason, "code": row.fault.code}
            for index, row in enumerate(rows)
            if row.fault is not None
        ]
    return written


def _encodings(fields: Fields) -> Sequence[Encoding]:
    value = fields.given.get("embedding_types")
    if value is None:
        return ("float",)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise RequestRefused("embedding_types must be a list of strings", param="embedding_types")
    unknown = [each for each in value if each not in ENCODINGS]
    if unknown:
        text = f"embedding_types must be among {', '.join(ENCODINGS)}"
        raise RequestRefused(text, code="invalid_value", param="embedding_types")
    return tuple(dict.fromkeys(value))


def _inputs(fields: Fields, rules: Rules) -> Sequence[Input]:
    given = [name for name in SOURCES if fields.has(name)]
    if len(given) != 1:
        text = "give one of inputs, texts and images"
        raise RequestRefused(text, code="missing_required_parameter", param=given[1] if given else "inputs")
    (name,) = given
    items = fields.given[name]
    if not isinstance(items, list):
        raise RequestRefused(f"{name} is {kind_of(items)}; it must be an array", code="invalid_type", param=name)
    check_count(items, rules, name)
    return well_formed(_each(name, items, rules))


def _each(name: str, items: Sequence[Any], rules: Rules) -> Iterator[Input | Fault]:
    for index, item in enumerate(items):
        where = f"{name}[{index}]"
        if name == "inputs":
            yield _of_content(item, where, rules)
        elif not isinstance(item, str):
            yield Fault(where, f"it is {kind_of(item)}; it must be a string")
        else:
            yield Input(where, "text", item) if name == "texts" else of_image(item, where, rules)


def _of_content(item: Any, where: str, rules: Rules) -> Input | Fault:
    content = item.get("content") if isinstance(item, dict) else None
    if not isinstance(content, list) or not content:
        return Fault(where, "it must be an object with content: a list with one part")
    if len(content) > 1:
        return Fault(where, f"its content has {len(content)} parts; {FUSED}")
    return of_part(content[0], f"{where}.content[0]", rules)
