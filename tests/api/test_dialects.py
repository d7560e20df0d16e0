"""The forms of requests, as tables."""

import base64

import pytest
from api.endpoint import png, uri
from vitriton._errors import Unreadable
from vitriton_api._dialects import cohere, openai
from vitriton_api._dialects.request import Rules
from vitriton_api._errors import RequestRefused

RULES = Rules(max_inputs=4, fetches_urls=False)
FETCHES = Rules(max_inputs=4, fetches_urls=True)
PNG = png()
URI = uri(PNG)
BARE = base64.b64encode(PNG).decode()
URL = "https://example.com/a.png"
PART = {"type": "image_url", "image_url": {"url": URI}}


def inputs(read, document, rules=RULES):
    return [(each.where, each.tower, each.value) for each in read({"model": "m", **document}, rules).inputs]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"input": "a"}, [("input", "text", "a")]),
        ({"input": ""}, [("input", "text", "")]),
        ({"input": ["a", "b"]}, [("input[0]", "text", "a"), ("input[1]", "text", "b")]),
        ({"input": ["a", URI]}, [("input[0]", "text", "a"), ("input[1]", "image", PNG)]),
        ({"input": [URI.replace("data:image/png", "DATA:Image/PNG")]}, [("input[0]", "image", PNG)]),
        ({"input": [URI[:60] + "\r\n" + URI[60:]]}, [("input[0]", "image", PNG)]),
        ({"input": "data: the new oil"}, [("input", "text", "data: the new oil")]),
        ({"input": "data:,hello"}, [("input", "text", "data:,hello")]),
        ({"input": [URL]}, [("input[0]", "text", URL)]),
        ({"input": {"text": "a"}}, [("input", "text", "a")]),
        ({"input": {"image": URI, "text": None}}, [("input", "image", PNG)]),
        ({"input": [{"image": BARE}, {"text": URI}]}, [("input[0]", "image", PNG), ("input[1]", "text", URI)]),
        ({"input": [BARE], "modality": "image"}, [("input[0]", "image", PNG)]),
        ({"input": [URI], "modality": "text"}, [("input[0]", "text", URI)]),
        ({"input": [URI, "a"], "modality": ["image", "text"]}, [("input[0]", "image", PNG), ("input[1]", "text", "a")]),
        ({"messages": [{"role": "user", "content": "a"}]}, [("messages[0].content", "text", "a")]),
        ({"messages": [{"role": "user", "content": [PART]}]}, [("messages[0].content[0]", "image", PNG)]),
        ({"input": "a", "messages": None, "dimensions": None, "user": "me"}, [("input", "text", "a")]),
    ],
)
def test_openai_style(document, expected):
    """OpenAI's own form, and those of NV-CLIP, Jina, SGLang, infinity, NeMo and vLLM."""
    assert inputs(openai.read, document) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"texts": ["a"]}, [("texts[0]", "text", "a")]),
        ({"images": [URI]}, [("images[0]", "image", PNG)]),
        (
            {"inputs": [{"content": [{"type": "text", "text": "a"}]}, {"content": [PART]}]},
            [("inputs[0].content[0]", "text", "a"), ("inputs[1].content[0]", "image", PNG)],
        ),
    ],
)
def test_cohere_style(document, expected):
    """Texts, images, and inputs with one part of content each."""
    assert inputs(cohere.read, document) == expected


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        ("data:image/png;base64,!!!!", "bad_url", "no valid base64"),
        ("data:image/png;base64,AAA", "bad_url", "no valid base64"),
        ("data:image/png,abc", "bad_url", "not in base64"),
        ("data:text/plain;base64,AAAA", "format", "type text/plain"),
        ("data:application/octet-stream;base64,AAAA", "format", "type application/octet-stream"),
        ("data:;base64,AAAA", "format", "type text/plain"),
    ],
)
def test_a_data_uri_that_cannot_be_used(value, code, reason):
    """It is an input with a reason, so that a request may have it as a null; never a text."""
    ((_, tower, problem),) = inputs(openai.read, {"input": [value]})
    assert (tower, problem.code) == ("image", code)
    assert reason in problem.reason


def test_urls_only_if_they_are_fetched():
    """Else the reason says what to send."""
    document = {"input": [URL], "modality": "image"}
    assert inputs(openai.read, document, FETCHES) == [("input[0]", "image", URL)]
    ((_, _, problem),) = inputs(openai.read, document)
    assert "fetches no URLs" in problem.reason


@pytest.mark.parametrize("rules", [RULES, FETCHES])
@pytest.mark.parametrize("value", ["/etc/passwd", "file:///etc/passwd", "../a.png", "ftp://example.com/a.png"])
def test_nothing_becomes_a_path(value, rules):
    """It is base64, or a reason why it is no image."""
    ((_, _, problem),) = inputs(openai.read, {"input": [value], "modality": "image"}, rules)
    assert isinstance(problem, Unreadable)
    assert problem.code == "bad_url"


@pytest.mark.parametrize(
    ("document", "param", "text"),
    [
        ([], None, "the body is an array"),
        ({"input": "a"}, "model", "model is missing"),
        ({"model": 1, "input": "a"}, "model", "model is 1; it must be a string"),
        ({"model": "m"}, "input", "input is missing"),
        ({"model": "m", "input": []}, "input", "input is empty"),
        ({"model": "m", "input": ["a"] * 5}, "input", "takes 4 at a time"),
        ({"model": "m", "input": [1, 2]}, "input", "token ids"),
        ({"model": "m", "input": [[1, 2], [3]]}, "input", "token ids"),
        ({"model": "m", "input": 5}, "input", "input is a number; send a text"),
        ({"model": "m", "input": ["a", None, "b", 1.5]}, "input[1], input[3]", "input[1]: it is null"),
        ({"model": "m", "input": {"image": URI, "text": "a"}}, "input", "one image or one text"),
        ({"model": "m", "input": [{}, {"url": URL}]}, "input[0], input[1]", '{"image": ...} or {"text": ...}'),
        ({"model": "m", "input": [{"image": 1}]}, "input[0]", "its image is a number"),
        ({"model": "m", "input": "a", "modality": "audio"}, "modality", "must be image or text"),
        ({"model": "m", "input": "a", "modality": ["text", "text"]}, "modality", "2 entries for 1 inputs"),
        ({"model": "m", "input": "a", "modality": [{}]}, "modality", "must be image or text"),
        ({"model": "m", "input": "a", "dimension": 3}, "dimension", "did you mean dimensions?"),
        ({"model": "m", "input": "a", "dimensions": 0}, "dimensions", "a whole number above 0"),
        ({"model": "m", "input": "a", "dimensions": True}, "dimensions", "a whole number above 0"),
        ({"model": "m", "input": "a", "encoding_format": "half"}, "encoding_format", "must be one of float, base64"),
        ({"model": "m", "input": "a", "truncate": "START"}, "truncate", "must be one of END, NONE"),
        ({"model": "m", "input": "a", "messages": []}, "messages", "two forms of one thing"),
        ({"model": "m", "messages": [{"content": ["x"]}]}, "messages[0].content[0]", "it must be"),
        ({"model": "m", "messages": [{"content": [PART, PART]}]}, "messages", "2 parts"),
        ({"model": "m", "messages": [{"content": []}]}, "messages", "is empty"),
        ({"model": "m", "messages": [{"content": 1}, 2]}, "messages", "2 parts"),
        ({"model": "m", "messages": "a"}, "messages", "a string; it must be an array"),
    ],
)
def test_what_openai_style_refuses(document, param, text):
    """With the part that is wrong, and what to do."""
    with pytest.raises(RequestRefused) as refused:
        openai.read(document, RULES)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("document", "param", "text"),
    [
        ({}, "inputs", "give one of inputs, texts and images"),
        ({"texts": ["a"], "images": [URI]}, "images", "give one of"),
        ({"texts": "a"}, "texts", "it must be an array"),
        ({"texts": ["a", 1, 2]}, "texts[1], texts[2]", "a number; it must be a string"),
        ({"inputs": [{"content": []}]}, "inputs[0]", "a list with one part"),
        ({"inputs": [{"content": [PART, PART]}]}, "inputs[0]", "2 parts"),
        ({"inputs": [1]}, "inputs[0]", "an object with content"),
        ({"texts": ["a"], "embedding_types": "float"}, "embedding_types", "list of strings"),
        ({"texts": ["a"], "embedding_types": []}, "embedding_types", "list of strings"),
        ({"texts": ["a"], "embedding_types": ["int4"]}, "embedding_types", "must be among"),
        ({"texts": ["a"], "input_type": "query"}, "input_type", "must be one of search_document"),
    ],
)
def test_what_cohere_style_refuses(document, param, text):
    """In the same way."""
    with pytest.raises(RequestRefused) as refused:
        cohere.read({"model": "m", **document}, RULES)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert text in str(refused.value)


def test_the_options_of_a_request():
    """Encodings, dimensions, prompts, cutting and null rows."""
    given = {"model": "m", "input": "a", "encoding_format": "int8", "dimensions": 3, "input_type": "query"}
    asked = openai.read({**given, "truncate": "NONE", "on_error": "null", "prompt_name": "p"}, RULES)
    assert (asked.encodings, asked.dimensions, asked.prompts) == (("int8",), 3, ("query", "search_query"))
    assert (asked.cuts, asked.null_rows, asked.prompt) == (False, True, "p")
    asked = openai.read({"model": "m", "input": "a"}, RULES)
    assert (asked.encodings, asked.prompts, asked.cuts, asked.null_rows) == (("float",), (), True, False)
    types = ["float", "binary", "float"]
    asked = cohere.read({"model": "m", "texts": ["a"], "embedding_types": types, "output_dimension": 2}, RULES)
    assert (asked.encodings, asked.dimensions) == (("float", "binary"), 2)
