"""Texts end to end: trained weights, a real Triton, the client; against sentence-transformers' arithmetic in torch."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from support import exports, trained_minilm
from transformers import AutoModel, AutoTokenizer
from vitriton import AsyncClient, Client, InvalidText, ModelNotFound, list_models
from vitriton_export import VerifyOptions, verify_model
from vitriton_export._parity.texts import corpus
from vitriton_server import TritonServer

# Each text, and another that means the same
PAIRS = [
    ("A man is riding a bicycle along the river.", "Someone cycles beside the water."),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("Interest rates were raised by the central bank.", "The bank made borrowing money more expensive."),
    ("How do I reset my password?", "I forgot my login and need a new one."),
    ("The train to Berlin is delayed by an hour.", "We will arrive in Germany's capital sixty minutes late."),
    ("Add two eggs and a cup of flour.", "The recipe says to mix flour with eggs."),
    ("The striker scored twice in the final.", "Two goals decided the football match."),
    ("Heavy rain flooded the cellar.", "Water got into the basement during the storm."),
]
TEXTS = [data.decode() for data in corpus().values()]


@pytest.fixture(scope="module")
def served(subprocesses, tmp_path_factory):
    """all-MiniLM-L6-v2, and the same as int8 under another name."""
    repository, checkpoint = tmp_path_factory.mktemp("texts") / "models", trained_minilm.checkpoint()
    exports.export(checkpoint, repository, name="minilm")
    # the empty text, of two tokens, reaches 0.981, and every other one 0.989
    exports.export(checkpoint, repository, name="minilm-int8", precision="int8", outputs="pooled", min_cosine=0.98)
    with TritonServer(repository) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    with Client(served.grpc_address, model="minilm") as connected:
        yield connected


def reference(texts):
    """What sentence_transformers.encode computes: mean of the tokens, of length 1."""
    checkpoint = trained_minilm.checkpoint()
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval()
    rows = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(dim=0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def test_vectors_equal_those_of_sentence_transformers(client):
    """To 1e-5, on all of the corpus, in batches of different lengths."""
    np.testing.assert_allclose(client.embed_texts(TEXTS), reference(TEXTS), atol=1e-5)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_tokens_come_without_padding(served, scheme):
    address = served.grpc_address if scheme == "grpc" else f"http://{served.http_address}"
    with Client(address, model="minilm") as client:
        together = client.embed_texts(TEXTS[:8], pool=False)
        for text, rows in zip(TEXTS, together, strict=False):
            (alone,) = client.embed_texts(text, pool=False)
            assert rows.shape == alone.shape
            np.testing.assert_allclose(rows, alone, atol=1e-4)


@pytest.mark.parametrize("model", ["minilm", "minilm-int8"])
def test_what_means_the_same_is_nearest(served, model):
    with Client(served.grpc_address, model=model) as client:
        left, right = (client.embed_texts([pair[place] for pair in PAIRS]) for place in (0, 1))
    assert (left @ right.T).argmax(axis=1).tolist() == list(range(len(PAIRS)))


def test_a_vector_does_not_depend_on_the_others(client):
    """Alone, in a batch, and while 16 callers send texts of all lengths."""
    alone = np.concatenate([client.embed_texts(text) for text in TEXTS])
    with ThreadPoolExecutor(16) as threads:
        for vector, expected in zip(threads.map(client.embed_texts, TEXTS), alone, strict=True):
            assert vector[0] @ expected >= 0.99999
    assert ((client.embed_texts(TEXTS) * alone).sum(axis=1) >= 0.99999).all()


def test_the_asynchronous_client(served):
    texts = [text for pair in PAIRS for text in pair]

    async def both():
        async with AsyncClient(served.grpc_address, model="minilm") as client:
            vectors = await client.embed_texts(texts)
            return vectors, [result async for result in client.stream_texts(iter(texts))]

    vectors, streamed = asyncio.run(both())
    np.testing.assert_allclose(np.stack([result.embedding for result in streamed]), vectors, atol=1e-5)


def test_what_was_cut_is_told(client):
    short, long = client.embed_texts(["a short text", "word " * 1000], on_error="return")
    assert (short.truncated, long.truncated) == (False, True)


def test_hostile_texts(client):
    """A million characters, half a surrogate pair, what is no text: each is named, and the others are answered."""
    texts = ["good", "x" * 1_000_000, "\ud800", 7, "also good"]
    results = client.embed_texts(texts, on_error="return")
    codes = [None if result.error is None else result.error.code for result in results]
    assert codes == [None, "too_large", "encoding", "kind", None]
    with pytest.raises(InvalidText, match="text 1 of 5"):
        client.embed_texts(texts)


def test_ten_thousand_texts(client):
    texts = [f"text number {number} of many" for number in range(10_000)]
    vectors = client.embed_texts(texts)
    assert vectors.shape == (10_000, 384)
    some = [0, 4_999, 9_999]
    np.testing.assert_allclose(vectors[some], client.embed_texts([texts[number] for number in some]), atol=1e-5)


def test_the_model_says_what_it_takes(served, client):
    model = client.describe()
    assert (model.towers, model.pooling, model.l2_normalize) == (("text",), "mean", True)
    assert model.texts.max_length == 256
    assert [found.name for found in list_models(served.grpc_address)] == ["minilm", "minilm-int8"]
    with pytest.raises(ModelNotFound, match="has no images; it embeds texts"):
        client.embed("examples/photos/cat.jpg")


def test_verify_asks_the_server(served):
    """Token ids and outputs of the running server, on the built-in texts."""
    report = verify_model(
        VerifyOptions(server=served.grpc_address, name="minilm", reference=str(trained_minilm.checkpoint()))
    )
    assert report.passed
    assert [stage.stage for stage in report.stages][:3] == ["input_ids", "embedding", "last_hidden_state"]
    assert report.compared == len(corpus())


def test_the_commands(served):
    """`vitriton models` shows it."""
    command = [Path(sys.executable).with_name("vitriton"), "models", "--url", served.grpc_address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "minilm" in done.stdout
    assert "texts of up to 256 tokens" in done.stdout + done.stderr
