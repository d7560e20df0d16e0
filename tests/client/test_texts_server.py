"""Texts against a real Triton: both clients, over both protocols."""

import json
import logging

import numpy as np
import pytest
from client.both import KINDS, make_client
from client.conftest import write_model
from client.scripted import ScriptedServer
from client.text_model import MAX_LENGTH, PROMPTS, write_text_model
from typer.testing import CliRunner
from vitriton import InvalidText, ModelNotFound, Options, TextRules, list_models
from vitriton.cli import app

pytestmark = pytest.mark.usefixtures("subprocesses")


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """A Triton with `words`, which takes texts, `photos`, which takes images, and `both`."""
    from vitriton_server import TritonServer

    repository = tmp_path_factory.mktemp("repository")
    for name in ("words_text_pooled", "words_text_unpooled", "both_text_pooled"):
        write_text_model(repository, name)
    for name in ("both_pooled", "photos_pooled"):
        write_model(repository, name, fingerprint="space-1")
    with TritonServer(repository) as running:
        yield running


@pytest.fixture(params=[f"{kind} {scheme}" for kind in KINDS for scheme in ("grpc", "http")])
def connect(request, server):
    """Makes clients of one kind, which speak one protocol."""
    kind, scheme = request.param.split()
    address = {"grpc": server.grpc_address, "http": server.http_address}[scheme]

    def make(model="words", *, others=(), **arguments):
        addresses = [f"{scheme}://{each}" for each in (*others, address)]
        return make_client(kind)(addresses, model=model, **arguments)

    return make


def test_ten_thousand_texts(connect):
    """They come back in their order, each with its own vector."""
    texts = [f"{index} " + "ä" * (index % 7) for index in range(10_000)]
    with connect() as client:
        vectors = client.embed_texts(texts)
        stats = client.stats()
    assert (vectors.shape, vectors.dtype) == ((10_000, 3), np.float32)
    assert vectors[:, 0].tolist() == list(range(10_000))
    assert vectors[:, 2].tolist() == [len(text.encode()) for text in texts]
    assert (stats.texts, stats.images, stats.requests) == (10_000, 0, 313)


def test_padding_is_dropped(connect):
    """Without pooling, each text has its own tokens, although the longest one of the request pads the others."""
    texts = [" ".join("abc"[: 1 + index % 3] for _ in range(1 + index % 6)) for index in range(100)]
    with connect() as client:
        tokens = client.embed_texts(texts, pool=False)
        results = list(client.stream_texts(iter(texts), pool=False))
    for text, rows, result in zip(texts, tokens, results, strict=True):
        assert rows.tolist() == [[place, len(word)] for place, word in enumerate(text.split())]
        assert (result.embedding == rows).all()


def test_long_texts_are_cut(connect, caplog):
    """A result says it, or a line in the log."""
    texts = ["1 " + "word " * count for count in (3, MAX_LENGTH, 50)]
    with connect() as client, caplog.at_level(logging.WARNING, "vitriton"):
        results = client.embed_texts(texts, on_error="return")
        assert caplog.messages == []
        assert client.embed_texts(texts)[:, 1].tolist() == [4, MAX_LENGTH + 1, 51]
    assert [result.truncated for result in results] == [False, True, True]
    assert caplog.messages == ["cut 2 of 3 texts to 8 tokens, the most that the model 'words' takes (max_length)"]


def test_texts_that_cannot_be_used(connect):
    """What the client refuses, and what the server does, in one call; the other texts are embedded."""
    texts = [*map(str, range(40)), "", 3, "\ud800", "x" * 1001, "  ", *map(str, range(45, 80))]
    with connect() as client:
        results = client.embed_texts(texts, on_error="return")
        with pytest.raises(InvalidText, match=r"text 1 of 3: has no tokens") as caught:
            client.embed_texts(["a", "", "b"])
    assert {result.index: result.error.code for result in results if result.error is not None} == {
        40: "empty", 41: "kind", 42: "encoding", 43: "too_large", 44: "empty",
    }  # fmt: skip
    good = [result for result in results if result.error is None]
    assert [result.embedding[0] for result in good] == [*range(40), *range(45, 80)]
    assert (caught.value.code, caught.value.status) == ("empty", "INVALID_ARGUMENT")


def test_another_server_takes_over(connect):
    """Requests that a broken server loses are answered by the other one, and all results are there."""
    texts = [str(index) for index in range(500)]
    with ScriptedServer(lambda peer: peer.request()) as broken:
        quick = Options(initial_backoff_s=0.01, max_backoff_s=0.02)
        with connect(others=[f"127.0.0.1:{broken.port}"], options=quick) as client:
            assert client.embed_texts(texts)[:, 0].tolist() == list(range(500))


def test_prompts(connect):
    """Their texts arrive before each text."""
    with connect() as client:
        assert client.embed_texts(["cat", "dog"], prompt="passage").tolist() == [[2, 3, 14]] * 2
        assert client.embed_texts("3").tolist() == [[3, 1, 1]]


def test_images_and_texts_of_one_model(connect, files):
    """One client embeds both; a model of images says that it has no texts, and the other way round."""
    with connect("both") as client:
        client.wait_ready(timeout_s=60)
        assert client.embed(files[:2]).shape == (2, 4)
        assert client.embed_texts(["a", "b"]).shape == (2, 3)
        model = client.describe()
    assert (model.name, model.towers, model.ready) == ("both", ("image", "text"), True)
    assert model.texts == TextRules(max_length=MAX_LENGTH, max_text_bytes=1000, prompts=PROMPTS)
    with connect("photos") as client, pytest.raises(ModelNotFound, match="has no texts; it embeds images"):
        client.embed_texts("cat")
    with connect() as client, pytest.raises(ModelNotFound, match="has no images; it embeds texts"):
        client.embed(files[:1])


def test_a_model_of_texts_alone(connect, caplog):
    """It is ready, and is described by its texts; that it has no images is no fault of the server."""
    with connect() as client, caplog.at_level(logging.INFO, "vitriton"):
        client.wait_ready(timeout_s=60)
        model = client.describe()
        client.embed_texts("cat")
    assert caplog.messages == []
    assert (model.towers, model.fingerprint, model.text_pooled.shape) == (("text",), "space-1", (3,))
    assert (model.text_unpooled.shape, model.pooled) == ((-1, 2), None)


def test_the_list_of_models(server):
    """`list_models` and `vitriton models` show towers, the longest text and prompts."""
    models = {model.name: model for model in list_models(server.grpc_address)}
    assert {name: model.towers for name, model in models.items()} == {
        "both": ("image", "text"), "photos": ("image",), "words": ("text",),
    }  # fmt: skip
    shown = CliRunner().invoke(app, ["models", "--url", server.grpc_address])
    assert "words: texts of up to 8 tokens; prompts: query, passage" in shown.stderr
    assert "\t".join(["words", "text_pooled", "READY", "3", "FP32", "fp32", "mean"]) in shown.stdout
    document = json.loads(CliRunner().invoke(app, ["models", "--url", server.grpc_address, "--json"]).stdout)
    found = {model["name"]: (model["towers"], model["texts"]) for model in document["models"]}
    assert found["photos"] == (["image"], None)
    assert found["words"][1]["prompts"] == PROMPTS


def test_vitriton_embed_takes_a_model_of_images(server, tmp_path):
    """Models of texts alone are not among those to choose from."""
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    arguments = ["embed", str(tmp_path), "-o", str(tmp_path / "out.npy"), "--url", server.grpc_address]
    assert "choose one with --model: both, photos" in CliRunner().invoke(app, arguments).stderr
