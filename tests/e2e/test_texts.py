"""Texts end to end: trained weights, a real Triton, the client; against sentence-transformers' arithmetic in torch."""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from api.endpoint import running
from support import exports, trained_minilm
from transformers import AutoModel, AutoTokenizer
from vitriton import AsyncClient, Client, InvalidText, ModelNotFound, list_models
from vitriton_export import VerifyOptions, verify_model
from vitriton_export._graph.precision import adds_products_exactly
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
    # the usual gate, where products do not saturate
    gate = {} if adds_products_exactly() else {"min_cosine": 0.98}
    exports.export(checkpoint, repository, name="minilm-int8", precision="int8", outputs="pooled", **gate)
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


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_texts(client, count):
    texts = [f"text number {number} of many" for number in range(count)]
    vectors = client.embed_texts(texts)
    assert vectors.shape == (count, 384)
    some = [0, count // 2, count - 1]
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


def test_the_endpoint(served, client):
    """The stock client of OpenAI gets the same vectors, to the last bit: of plain and of awkward texts."""
    texts = [text for pair in PAIRS for text in pair] + [text for text in TEXTS if len(text) < 2000]
    with running(served.grpc_address) as endpoint:
        with openai.OpenAI(base_url=endpoint.base_url, api_key="none", max_retries=0) as stock:
            answers = [stock.embeddings.create(model="minilm", input=text).data[0].embedding for text in texts]
            tokens = stock.embeddings.create(model="minilm", input=texts).usage.prompt_tokens
        assert endpoint.call("/v1/models/minilm").document["dimensions"] == 384
    rows = [client.embed_texts(text)[0] for text in texts]
    assert np.array(answers, np.float32).tobytes() == np.stack(rows).tobytes()
    assert tokens == sum(result.tokens for result in client.stream_texts(texts))


@pytest.mark.parametrize("pool", [True, False])
def test_a_file_of_texts(served, client, tmp_path, pool):
    """`vitriton embed --texts` writes the vectors that the client returns, from a Parquet column."""
    table = pa.table({"id": [f"text-{index}" for index in range(len(TEXTS))], "body": TEXTS})
    pq.write_table(table, tmp_path / "in.parquet")
    command = [Path(sys.executable).with_name("vitriton"), "embed", "--texts", "in.parquet", "--text-column", "body"]
    options = ["--id-column", "id", "--model", "minilm", "--url", served.grpc_address, "-o", "out.parquet", "--json"]
    pooling = "--pool" if pool else "--unpooled"
    done = subprocess.run([*command, *options, pooling], cwd=tmp_path, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert (summary["texts"], summary["failed"], summary["fingerprint"]) == (
        len(TEXTS), 0, client.describe().fingerprint,
    )  # fmt: skip
    assert summary["truncated"] == sum(result.truncated for result in client.embed_texts(TEXTS, on_error="return"))
    rows = pq.read_table(tmp_path / "out.parquet")
    assert rows.column("source").to_pylist() == table.column("id").to_pylist()
    for flat, expected in zip(rows.column("embedding"), client.embed_texts(TEXTS, pool=pool), strict=True):
        np.testing.assert_allclose(flat.values.to_numpy().reshape(expected.shape), expected, atol=1e-4)
