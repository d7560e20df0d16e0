"""Texts: what both clients do with them, on a transport without a server."""

import asyncio
import contextlib
import json
import logging
import pickle
import threading

import numpy as np
import pytest
from client.both import KINDS, make_client
from vitriton import (
    AsyncClient,
    ClientClosed,
    ContractMismatch,
    InvalidImage,
    InvalidInput,
    InvalidText,
    ModelNotFound,
    ModelNotReady,
    Options,
    Stats,
    TextRules,
    Unavailable,
)
from vitriton._wire.transport import ModelStatus
from vitriton.preprocessing import Refusal
from vitriton.testing import CallError, Code, FakeTransport, InferReply, InferRequest, busy, invalid_texts, unavailable

from client import fakes

QUICK = Options(initial_backoff_s=0.001, max_backoff_s=0.002)
SECRET = "a secret"
HALF_A_PAIR = f"{SECRET} \ud800"
PROMPTS = {"query": "query: ", "passage": "passage: "}


@pytest.fixture(params=KINDS)
def client_on(request):
    """Makes clients of one kind on a transport; closes them."""
    with contextlib.ExitStack() as stack:

        def make(transport, options=QUICK, **arguments):
            client = make_client(request.param)("", model="m", transport=transport, options=options, **arguments)
            return stack.enter_context(client)

        yield make


def number(data):
    """(8,) of the number that a text or an image is."""
    return np.full(8, float(data))


def sent(transport):
    """The texts of all requests."""
    return [text.decode() for request in transport.requests for text in request.images]


# Results


def test_pooled(client_on):
    """One vector for each text, in order, whatever the number of requests."""
    transport = FakeTransport(embed=number, max_batch_size=4)
    vectors = client_on(transport).embed_texts([str(index) for index in range(30)])
    assert (vectors.shape, vectors.dtype) == ((30, 8), np.float32)
    assert vectors[:, 0].tolist() == list(range(30))
    assert {(request.model, request.input_name, request.beside) for request in transport.requests} == {
        ("m_text_pooled", "text", ("token_counts",))
    }


@pytest.mark.parametrize("kind", [list, tuple, iter, dict.keys])
def test_any_iterable(client_on, kind):
    """A list, a tuple, an iterator, a view: the same texts, in UTF-8."""
    transport = FakeTransport()
    assert client_on(transport).embed_texts(kind({"ä": 1, "b": 2})).shape == (2, 8)
    assert sent(transport) == ["ä", "b"]


def test_a_single_text(client_on):
    """One str is a list of one, and no list of its characters."""
    transport = FakeTransport()
    assert client_on(transport).embed_texts("three small words").shape == (1, 8)
    assert sent(transport) == ["three small words"]


def test_no_texts(client_on):
    """No texts make no request, and an empty result of the right kind."""
    transport = FakeTransport()
    client = client_on(transport)
    assert client.embed_texts([]).shape == (0, 8)
    assert client.embed_texts(iter([])).shape == (0, 8)
    assert client.embed_texts([], pool=False) == []
    assert client.embed_texts([], on_error="return") == []
    assert transport.requests == []


@pytest.mark.parametrize("dtype", ["float32", "served"])
def test_all_tokens(client_on, dtype):
    """Without pooling, each text has as many rows as it has tokens: what pads it is gone."""
    transport = FakeTransport(max_batch_size=3)
    texts = ["one", "two words", "a b c d e", "x y"]
    tokens = client_on(transport).embed_texts(texts, pool=False, dtype=dtype)
    assert [each.shape for each in tokens] == [(1, 8), (2, 8), (5, 8), (2, 8)]
    assert all(each.base is None for each in tokens)  # none keeps the whole reply in memory
    assert {request.model for request in transport.requests} == {"m_text_unpooled"}


def test_results(client_on):
    """With on_error="return", a result tells whether its text was cut; its source is empty."""
    transport = FakeTransport(max_length=2)
    results = client_on(transport).embed_texts(["one two", "one two three"], pool=False, on_error="return")
    assert [(result.index, result.source, result.truncated) for result in results] == [(0, "", False), (1, "", True)]
    assert [(result.tokens, result.whole_tokens) for result in results] == [(2, 2), (2, 3)]
    assert [result.embedding.shape for result in results] == [(2, 8), (2, 8)]


def test_images_are_never_cut(client_on):
    """`truncated` is False for an image."""
    (result,) = client_on(FakeTransport()).embed([b"image"], on_error="return")
    assert (result.source, result.truncated, result.tokens, result.whole_tokens) == ("bytes", False, None, None)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ({}, ["cut 2 of 3 texts to 2 tokens, the most that the model 'm' takes (max_length)"]),
        ({"pool": False}, ["cut 2 of 3 texts to 2 tokens, the most that the model 'm' takes (max_length)"]),
        ({"on_error": "return"}, []),
    ],
)
def test_a_warning_for_texts_that_were_cut(client_on, caplog, arguments, lines):
    """An array cannot say that texts were cut: the log does, once for the call."""
    client = client_on(FakeTransport(max_length=2, max_batch_size=1))
    with caplog.at_level(logging.WARNING, "vitriton"):
        client.embed_texts(["a b c", "a b", "a b c d"], **arguments)
        list(client.stream_texts(["a b c"]))
    assert caplog.messages == lines


def test_nothing_is_said_of_texts_that_were_not(client_on, caplog):
    """Texts of the largest number of tokens are whole."""
    with caplog.at_level(logging.WARNING, "vitriton"):
        client_on(FakeTransport(max_length=2)).embed_texts(["a b", "a"])
    assert caplog.messages == []


def test_streams(client_on):
    """A stream of texts without end is read a little ahead; it gives results in order."""
    taken = []

    def texts():
        for index in range(10**6):
            taken.append(index)
            yield str(index)

    transport = FakeTransport(embed=number)
    stream = client_on(transport, Options(read_ahead=4, max_in_flight=1)).stream_texts(texts())
    with contextlib.closing(stream) as results:
        for index, result in zip(range(50), results, strict=False):
            assert (result.index, result.embedding[0]) == (index, index)
    assert len(taken) < 200


def test_a_stream_of_an_async_iterable():
    """`AsyncClient` takes texts that come one after another."""

    async def texts():
        for index in range(20):
            yield str(index)

    async def main():
        async with AsyncClient("", model="m", transport=FakeTransport(embed=number)) as client:
            vectors = await client.embed_texts(texts())
            results = [result async for result in client.stream_texts(texts())]
            return vectors[:, 0].tolist(), [result.index for result in results]

    assert asyncio.run(main()) == (list(range(20)), list(range(20)))


# Prompts


@pytest.mark.parametrize(
    ("default", "prompt", "text"),
    [
        (None, None, "cat"),
        (None, "query", "query: cat"),
        ("passage", None, "passage: cat"),
        ("passage", "query", "query: cat"),
        ("passage", "", "cat"),
    ],
)
def test_prompts(client_on, default, prompt, text):
    """A prompt's text is put before each text: the named one, the model's default one, or none."""
    transport = FakeTransport(prompts=PROMPTS, parameters={"default_prompt": default} if default else {})
    client = client_on(transport)
    client.embed_texts(["cat"], prompt=prompt)
    list(client.stream_texts(["cat"], prompt=prompt))
    assert sent(transport) == [text, text]


def test_unknown_prompts(client_on):
    """An unknown prompt is the caller's mistake, and the error lists those that there are."""
    client = client_on(FakeTransport(prompts=PROMPTS))
    with pytest.raises(ValueError, match=r"prompt is 'quary', which must .*, and the model has 'query', 'passage'$"):
        client.embed_texts("cat", prompt="quary")
    with pytest.raises(ValueError, match=r"prompt is 'query', which must .*, and the model has no prompts$"):
        list(client_on(FakeTransport()).stream_texts("cat", prompt="query"))
    with pytest.raises(TypeError, match="prompt is 3; it must be the name of a prompt"):
        client.embed_texts("cat", prompt=3)


# Texts that cannot be used


@pytest.mark.parametrize(
    ("text", "reason", "code"),
    [
        (3, "an object of type int is not a text; give a str", "kind"),
        (b"bytes", "an object of type bytes is not a text; give a str", "kind"),
        (None, "an object of type NoneType is not a text; give a str", "kind"),
        (HALF_A_PAIR, "is not Unicode text: half of a surrogate pair at position 9", "encoding"),
        (SECRET * 200_000, "1600000 bytes are over the model's limit of 1048576 (max_text_bytes)", "too_large"),
    ],
)
def test_invalid_texts(client_on, text, reason, code):
    """They are found before anything is sent; the error names the index, and never has the content."""
    transport = FakeTransport()
    client = client_on(transport)
    with pytest.raises(InvalidText) as caught:
        client.embed_texts(["fine", text, "fine"])
    assert str(caught.value) == f"text 1 of 3: {reason}"
    assert (caught.value.index, caught.value.source, caught.value.code) == (1, "", code)
    assert transport.requests == []
    good, bad, _ = client.embed_texts(["fine", text, "fine"], on_error="return")
    assert (good.error, bad.embedding, str(bad.error)) == (None, None, f"text 1 of 3: {reason}")
    assert SECRET not in repr(bad.error)
    assert bad.error.__cause__ is None  # Python's own error has the text
    *_, last = client.stream_texts(iter(["fine", text]))
    assert str(last.error) == f"text 1: {reason}"
    with pytest.raises(InvalidText, match=r"^text 1: "):
        list(client.stream_texts(iter(["fine", text]), on_error="raise"))


def test_the_position_is_in_the_callers_text(client_on):
    """A prompt does not move it."""
    with pytest.raises(InvalidText, match=r"at position 1$"):
        client_on(FakeTransport(prompts=PROMPTS)).embed_texts("a\udfff", prompt="query")


def test_refused_texts(client_on):
    """What the server refuses is named by the caller's index; the others are sent again."""
    refused = {1: Refusal("has no tokens", "empty"), 2: "odd"}
    with pytest.raises(InvalidText) as caught:
        client_on(FakeTransport(faults=[invalid_texts(refused, 4)])).embed_texts(["a", "", "c", "d"])
    assert str(caught.value) == "2 of 4 texts cannot be used: text 1: has no tokens; text 2: odd"
    assert [problem.code for problem in caught.value.errors] == ["empty", "other"]
    transport = FakeTransport(faults=[invalid_texts(refused, 4)])
    results = client_on(transport).embed_texts(["a", "", "c", "d"], on_error="return")
    assert [result.error is None for result in results] == [True, False, False, True]
    assert [len(request.images) for request in transport.requests] == [4, 2]


@pytest.mark.parametrize("texts", [b"abc", bytearray(b"abc"), {"a": 1}, 3, None])
def test_what_is_no_texts(client_on, texts):
    """Bytes and a dict are not taken for the numbers and the keys in them."""
    with pytest.raises(TypeError, match=f"texts has the type {type(texts).__name__}; give a str, or a list"):
        client_on(FakeTransport()).embed_texts(texts)


def test_one_family_of_errors():
    """A handler for both kinds of inputs is one class; the errors can be pickled."""
    error = InvalidText([(3, "", "odd", "other")], 10, model="m_text_pooled")
    assert isinstance(error, InvalidInput)
    assert not isinstance(error, InvalidImage)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errors, again.model) == ("text 3 of 10: odd", error.errors, "m_text_pooled")


# The call as with images


def test_retries_and_counts(client_on):
    """A failed request is sent again; texts are counted apart from images."""
    client = client_on(FakeTransport(faults=[unavailable(), busy(), invalid_texts({0: "odd"}, 2)]))
    client.embed_texts(["one", "two"], on_error="return")
    client.embed([b"image"])
    assert client.stats() == Stats(images=1, texts=1, invalid_texts=1, requests=5, retries=2, bytes_sent=6 * 3 + 3 + 5)


def test_the_fingerprint_is_checked(client_on):
    """Texts of another space are not embedded."""
    transport = FakeTransport()
    with pytest.raises(ContractMismatch, match=r"model m .* other was expected"):
        client_on(transport, expect_fingerprint="other").embed_texts("cat")
    assert transport.requests == []


def test_preprocess_client(client_on):
    """Texts are tokenized on the server alone, and the error says so."""
    client = client_on(FakeTransport(towers=["text"]), preprocess="client")
    with pytest.raises(ValueError, match="preprocess is 'client', and texts are tokenized on the server"):
        client.embed_texts("cat")


def test_a_closed_client(client_on):
    """It says so, and embeds nothing."""
    client = client_on(FakeTransport())
    client.close()
    with pytest.raises(ClientClosed):
        client.embed_texts("cat")


def test_requests_in_flight(client_on):
    """Several requests are open at a time, as many as `Options` says."""
    transport = FakeTransport(embed=number, max_batch_size=1, answers_at_once=False)
    client = client_on(transport, Options(max_in_flight=3))
    done = threading.Thread(target=client.embed_texts, args=(list("12345"),))
    done.start()
    while len(transport.sent) < 3:
        pass
    assert len([pending for pending in transport.sent if not pending.is_done]) == 3
    while done.is_alive():
        for pending in list(transport.sent):
            pending.finish()
        done.join(0.01)
    assert sorted(sent(transport)) == list("12345")


# Replies that are wrong


def answering(**changes):
    """A transport whose token counts differ from what they should be; None leaves them out."""

    class Transport(FakeTransport):
        def respond(self, request: InferRequest) -> InferReply:
            reply = super().respond(request)
            for name, value in changes.items():
                setattr(reply.beside[0], name, value)
            reply.beside = reply.beside if changes else ()
            return reply

    return Transport()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "returned last_hidden_state without token_counts"),
        ({"name": "others"}, r"returned others INT32 \[1, 2\], and its configuration says token_counts \[1, 2\]"),
        ({"datatype": "INT64"}, "INT64"),
        ({"shape": (2, 2)}, r"\[2, 2\]"),
        ({"data": b"1234"}, "returned 4 bytes"),
        ({"data": np.array([3, 3], "<i4").tobytes()}, "returned 2 rows for a text of 3 tokens"),
        ({"data": np.array([-1, 3], "<i4").tobytes()}, "returned 2 rows for a text of -1 tokens"),
    ],
)
def test_wrong_counts(client_on, changes, says):
    """Counts that cannot be are never used to cut a reply."""
    with pytest.raises(ContractMismatch, match=says):
        client_on(answering(**changes)).embed_texts(["two words"], pool=False)


@pytest.mark.parametrize("tokenize", [None, "{}", "[]", "no JSON", '{"max_length": "many", "max_text_bytes": 1}'])
def test_unreadable_rules(client_on, tokenize):
    """A model that does not say how it takes texts is refused, with what is wrong."""

    class Transport(FakeTransport):
        def model_config(self, model, timeout_s):
            config = super().model_config(model, timeout_s)
            del config.parameters["tokenize"]
            config.parameters.update({} if tokenize is None else {"tokenize": tokenize})
            return config

    with pytest.raises(ContractMismatch, match="its parameters for texts cannot be read here") as caught:
        client_on(Transport()).embed_texts("cat")
    assert caught.value.address == "grpc://fake:8001"


# What a model has


def test_describe(client_on):
    """A description has the towers, the outputs of both, the longest text and the prompts."""
    parameters = {"default_prompt": "query", "pooling": "projection"}
    model = client_on(FakeTransport(prompts=PROMPTS, max_length=77, parameters=parameters)).describe()
    assert model.towers == ("image", "text")
    assert [output.kind for output in model.outputs] == ["pooled", "unpooled", "text_pooled", "text_unpooled"]
    assert (model.text_pooled.shape, model.text_unpooled.shape) == ((8,), (-1, 8))
    assert model.texts == TextRules(max_length=77, max_text_bytes=2**20, prompts=PROMPTS, default_prompt="query")
    assert hash(model.texts)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_describe_one_tower(client_on, tower):
    """A model of one tower is described by it."""
    model = client_on(FakeTransport(towers=[tower])).describe()
    assert model.towers == (tower,)
    assert (model.texts is not None) is (tower == "text")
    assert (model.pooled is not None, model.text_pooled is not None) == (tower == "image", tower == "text")


def test_describe_a_model_that_is_loading(client_on):
    """A model for texts that is not loaded yet is waited for, although it has no images."""
    index = [ModelStatus(name="m_text_pooled", ready=False, state="LOADING")]

    class Loading(fakes.FakeTransport):
        def model_config(self, model, timeout_s):
            if model != "m_text_pooled":
                raise fakes.unknown(model)
            raise CallError(Code.NOT_FOUND, f"Request for unknown model: '{model}' has no available versions")

    with pytest.raises(ModelNotReady, match="its text_pooled output is not ready: LOADING"):
        client_on(Loading(index=index), timeout_s=1.0).describe()


def ready(*names):
    return [ModelStatus(name=name, ready=True, state="READY") for name in names]


def unknown_models(index):
    """A transport that has no model but those of an index."""

    class Transport(fakes.FakeTransport):
        def model_config(self, model, timeout_s):
            if all(status.name != model for status in index):
                raise fakes.unknown(model)
            return super().model_config(model, timeout_s)

    return Transport(index=index)


@pytest.mark.parametrize(
    ("index", "call", "says"),
    [
        (ready("m_pooled", "m_unpooled"), "embed_texts", "model m on the server at .* has no texts; it embeds images"),
        (ready("m_text_pooled"), "embed", "model m on the server at .* has no images; it embeds texts"),
        (
            ready("m_text_unpooled", "m_pooled"),
            "embed_texts",
            r"text_pooled .*Call embed_texts\(pool=False\)",
        ),
    ],
)
def test_a_tower_that_a_model_does_not_have(client_on, index, call, says):
    """The error says what the model embeds."""
    client = client_on(unknown_models(index))
    with pytest.raises(ModelNotFound, match=says) as caught:
        getattr(client, call)("cat" if call == "embed_texts" else b"cat")
    assert caught.value.available == ("m",)


@pytest.mark.parametrize(
    "names",
    [["m_pooled"], ["m_text_pooled"], ["m_text_pooled", "m_text_unpooled"], ["m_pooled", "m_text_unpooled"]],
)
def test_wait_ready(client_on, names):
    """A model is ready with whatever it has."""
    client_on(fakes.FakeTransport(index=ready(*names))).wait_ready(timeout_s=60)


def test_wait_ready_waits_for_both_towers(client_on):
    """Texts that are loading are waited for, although images are ready."""
    index = [*ready("m_pooled"), ModelStatus(name="m_text_pooled", ready=False, state="LOADING")]
    transport = fakes.FakeTransport(index=index)
    with pytest.raises(ModelNotReady, match=r"model m is on the server at .* text_pooled output is not ready: LOADING"):
        client_on(transport).wait_ready(timeout_s=1)
    index[1] = ready("m_text_pooled")[0]
    client_on(transport).wait_ready(timeout_s=60)


def test_an_index_that_comes_too_late(client_on):
    """A server that answers half of what it is asked in time is one that does not answer, and is asked again."""

    class Transport(fakes.FakeTransport):
        def repository_index(self, timeout_s):
            raise CallError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")

    with pytest.raises(Unavailable, match="did not answer"):
        client_on(Transport(index=ready("m_pooled", "m_unpooled"))).wait_ready(timeout_s=1)


def test_parameters_of_the_fake_server():
    """They are those of `vitriton export`."""
    config = FakeTransport().model_config("m_text_pooled", None)
    assert json.loads(config.parameters["tokenize"]) == {
        "max_length": 256,
        "max_text_bytes": 2**20,
        "truncation_side": "right",
    }


def test_errors_of_arguments_come_at_the_call():
    """Also from a stream of `AsyncClient`, before anybody asks for a result."""

    async def main():
        async with AsyncClient("", model="m", transport=FakeTransport()) as client:
            with pytest.raises(TypeError, match="texts has the type int"):
                client.stream_texts(3)
            with pytest.raises(ValueError, match="on_error is 'ignore'"):
                client.stream([b"image"], on_error="ignore")

    asyncio.run(main())
