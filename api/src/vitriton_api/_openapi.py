"""The OpenAPI description of the endpoint, as it is at the moment: with the names of its models, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitriton._version import __version__

from vitriton_api._config import ApiOptions
from vitriton_api._dialects import cohere, openai
from vitriton_api._encodings import ENCODINGS

# A picture of one color, 8 pixels wide and high
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mN0aDjAgA0wMeAAg1MCAC+XAZAtTDbBAAAAAElFTkSuQmCC"
_EXAMPLES = {"image": f"data:image/png;base64,{_PNG}", "text": "A man rides a bicycle."}
_STATUSES = {
    "400": "The request has a wrong form; the error names the part.",
    "401": "The key is missing or unknown.",
    "403": "A URL leads into a private network.",
    "404": "There is no such model.",
    "408": "The body did not arrive in time.",
    "409": "The model has another fingerprint than the expected one.",
    "413": "The body, an image or a text is too large.",
    "415": "The body is not JSON or is compressed, or an image has a format that is not taken.",
    "422": "Images or texts cannot be used; the error names all of them.",
    "429": "The endpoint or the server is full; try again after Retry-After.",
    "500": "The endpoint has failed.",
    "502": "The server has failed, or a URL could not be fetched.",
    "503": "The models do not answer now; try again after Retry-After.",
    "504": "The vectors, or an image from a URL, did not come in time.",
}
_WITH_RETRY = ("429", "503")

Towers = Mapping[str, Sequence[str]]


def description(options: ApiOptions, models: Towers, *, has_keys: bool) -> dict[str, Any]:
    """The description.

    Args:
        options: the options of the command.
        models: the towers of the models, by name.
        has_keys: whether callers need a key.
    """
    secured: dict[str, Any] = {"security": [{"key": []}]} if has_keys else {}
    of_keys = ("401",) if has_keys else ()
    for_work = [status for status in _STATUSES if status != "401" or has_keys]
    schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if has_keys else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Vitriton", "version": __version__, "summary": "Embeddings of images and texts"},
        "paths": {
            "/v1/embeddings": {"post": secured | _work("embeddings", _openai_form(options, models), for_work)},
            "/v2/embed": {"post": secured | _work("embed", _cohere_form(options, models), for_work)},
            "/v1/models": {"get": secured | _look("listModels", _ref("Models"), of_keys)},
            "/v1/models/{model}": {
                "get": secured
                | {"parameters": [_model_in_path(models)]}
                | _look("showModel", _ref("Model"), (*of_keys, "404", "503"))
            },
            "/health/live": {"get": _look("live", _ref("Status"))},
            "/health/ready": {"get": _look("ready", _ref("Status"), ("503",))},
            "/metrics": {"get": _look("metrics", None)},
            "/openapi.json": {"get": _look("description", {"type": "object"})},
        },
        "components": {"schemas": _schemas(), **schemes},
    }


def _work(name: str, form: dict[str, Any], statuses: Sequence[str]) -> dict[str, Any]:
    """An operation that embeds."""
    answer = "Embeddings" if name == "embeddings" else "EmbeddingsByType"
    fingerprint = {"description": "The name of the embedding space.", "schema": {"type": "string"}}
    request_id = {"description": "The caller's own, or a new one.", "schema": {"type": "string"}}
    done = {
        "description": "The embeddings, in the order of the inputs.",
        "headers": {"x-vitriton-fingerprint": fingerprint, "x-request-id": request_id},
        "content": {"application/json": {"schema": _ref(answer)}},
    }
    return {
        "operationId": name,
        "parameters": [
            {
                "name": "x-vitriton-expect-fingerprint",
                "in": "header",
                "description": "The fingerprint that the model must have.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": form}}},
        "responses": {"200": done, **_errors(statuses)},
    }


def _look(name: str, schema: dict[str, Any] | None, statuses: Sequence[str] = ()) -> dict[str, Any]:
    """An operation that only shows something; without a schema, as Prometheus's text."""
    content = (
        {"text/plain": {"schema": {"type": "string"}}} if schema is None else {"application/json": {"schema": schema}}
    )
    return {"operationId": name, "responses": {"200": {"description": "It.", "content": content}, **_errors(statuses)}}


def _errors(statuses: Sequence[str]) -> dict[str, Any]:
    retry = {"retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return {
        status: {
            "description": _STATUSES[status],
            "content": {"application/json": {"schema": _ref("Error")}},
            **({"headers": retry} if status in _WITH_RETRY else {}),
        }
        for status in statuses
    }


def _openai_form(options: ApiOptions, models: Towers) -> dict[str, Any]:
    one = {"oneOf": [{"type": "string"}, _ref("ImageObject"), _ref("TextObject")]}
    some = {"type": "array", "items": one, "minItems": 1, "maxItems": options.max_inputs}
    modality = {"enum": ["image", "text"]}
    properties = {
        "model": _names(models),
        "input": {
            "description": "Texts, and images as data:image/...;base64,... URIs or as objects.",
            "oneOf": [{"type": "string"}, _ref("ImageObject"), _ref("TextObject"), some],
        },
        "messages": {
            "description": "In place of input: a conversation with one part of content.",
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "properties": {
                    "role": {"type": "string"},
                    "content": {"oneOf": [{"type": "string"}, {"type": "array", "items": _ref("Part")}]},
                },
                "required": ["content"],
            },
        },
        "modality": {
            "description": "What all inputs are, or each of them.",
            "anyOf": [modality, {"type": "null"}, {"type": "array", "items": modality}],
        },
        "encoding_format": {"enum": [*ENCODINGS, None], "default": "float"},
        "dimensions": {**_or_null("integer"), "minimum": 1, "description": "Those of the model."},
        "user": {**_or_null("string"), "description": "Ignored."},
        "input_type": {"enum": [*openai.INPUT_TYPES, None], "description": "Chooses the prompt of that name."},
        "prompt_name": {**_or_null("string"), "description": "A prompt that the model has."},
        "truncate": {"enum": [*openai.TRUNCATE, None], "default": "END"},
        "on_error": {"enum": ["fail", "null", None], "default": "fail"},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": ["model"],
        "additionalProperties": False,
        "examples": [
            {"model": name, "input": _EXAMPLES[tower], "encoding_format": "base64"}
            for name, towers in models.items()
            for tower in towers
        ],
    }


def _cohere_form(options: ApiOptions, models: Towers) -> dict[str, Any]:
    many = {"minItems": 1, "maxItems": options.max_inputs}
    content = {"type": "array", "items": _ref("Part"), "minItems": 1, "maxItems": 1}
    one = {"type": "object", "properties": {"content": content}, "required": ["content"]}
    types = {"type": ["array", "null"], "items": {"enum": list(ENCODINGS)}, "minItems": 1}
    properties = {
        "model": _names(models),
        "inputs": {"type": ["array", "null"], "items": one, **many},
        "texts": {"type": ["array", "null"], "items": {"type": "string"}, **many},
        "images": {"type": ["array", "null"], "items": {"type": "string"}, **many},
        "input_type": {"enum": [*cohere.INPUT_TYPES, None], "description": "Chooses the prompt of that name."},
        "embedding_types": types,
        "output_dimension": {**_or_null("integer"), "minimum": 1, "description": "Those of the model."},
        "truncate": {"enum": [*cohere.TRUNCATE, None], "default": "END"},
        "on_error": {"enum": ["fail", "null", None], "default": "fail"},
    }
    return {
        "description": "One of inputs, texts and images must be given.",
        "type": "object",
        "properties": properties,
        "required": ["model"],
        "additionalProperties": False,
        "examples": [
            {"model": name, f"{tower}s": [_EXAMPLES[tower]], "embedding_types": ["float"]}
            for name, towers in models.items()
            for tower in towers
        ],
    }


def _schemas() -> dict[str, Any]:
    text, number, vector = {"type": "string"}, {"type": "integer"}, _ref("Vector")
    fault = {"message": text, "code": text}
    return {
        "Error": _object(
            {"error": _object({"message": text, "type": text, "param": _or_null("string"), "code": text})},
        ),
        "Status": _object({"status": text}),
        "ImageObject": _object({"image": {**text, "description": "A data: URI, base64, or a URL."}}, closed=True),
        "TextObject": _object({"text": text}, closed=True),
        "Part": {
            "oneOf": [
                _object({"type": {"const": "text"}, "text": text}),
                _object({"type": {"const": "image_url"}, "image_url": _object({"url": text})}),
            ]
        },
        "Vector": {
            "description": "Numbers, or for base64 a string.",
            "oneOf": [{"type": "array", "items": {"type": "number"}}, text],
        },
        "Embeddings": _object(
            {
                "object": {"const": "list"},
                "data": {
                    "type": "array",
                    "items": _object(
                        {
                            "object": {"const": "embedding"},
                            "index": number,
                            "embedding": {"oneOf": [vector, {"type": "null"}]},
                        },
                        optional={"truncated": {"type": "boolean"}, "error": _object(fault)},
                    ),
                },
                "model": text,
                "usage": _object({"prompt_tokens": number, "total_tokens": number, "images": number}),
            }
        ),
        "EmbeddingsByType": _object(
            {
                "id": text,
                "response_type": {"const": "embeddings_by_type"},
                "embeddings": {
                    "type": "object",
                    "propertyNames": {"enum": list(ENCODINGS)},
                    "additionalProperties": {"type": "array", "items": {"oneOf": [vector, {"type": "null"}]}},
                },
                "meta": _object(
                    {
                        "api_version": _object({"version": text}),
                        "billed_units": _object({"input_tokens": number, "images": number}),
                    }
                ),
            },
            optional={
                "truncated": {"type": "array", "items": number},
                "errors": {"type": "array", "items": _object({"index": number, **fault})},
            },
        ),
        "Models": _object({"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}),
        "Model": _object(
            {
                "id": text,
                "object": {"const": "model"},
                "created": number,
                "owned_by": text,
                "ready": {"type": "boolean"},
                "fingerprint": _or_null("string"),
                "modalities": {"type": "array", "items": {"enum": ["image", "text"]}},
                "dimensions": _or_null("integer"),
                "precision": _or_null("string"),
                "pooling": _or_null("string"),
                "source": _or_null("string"),
                "max_input_tokens": _or_null("integer"),
                "prompts": {"type": "array", "items": text},
            }
        ),
    }


def _object(
    properties: dict[str, Any], *, optional: dict[str, Any] | None = None, closed: bool = False
) -> dict[str, Any]:
    schema = {"type": "object", "properties": {**properties, **(optional or {})}, "required": list(properties)}
    return {**schema, "additionalProperties": False} if closed else schema


def _model_in_path(models: Towers) -> dict[str, Any]:
    return {"name": "model", "in": "path", "required": True, "schema": _names(models)}


def _names(models: Towers) -> dict[str, Any]:
    return {"type": "string", **({"enum": list(models)} if models else {})}


def _or_null(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
