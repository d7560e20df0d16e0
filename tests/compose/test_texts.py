"""A model for texts in the compose files: exported, served, healthy, and behind the gateway."""

from __future__ import annotations

import json
import ssl

import httpx
import numpy as np
import pytest
from compose.conftest import TEXTS
from transformers import AutoModel, AutoTokenizer
from vitriton import TLS, Client, InvalidText

MODEL = f"{TEXTS}_text_pooled"
SENTENCES = ["a man rides a bicycle", "the quick brown fox jumps over the lazy dog", "the"]
TOLERANCE = 1e-4
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def reference(torch, checkpoints):
    """What transformers makes of the sentences: the mean of the tokens of each, (N, D)."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / TEXTS)
    model = AutoModel.from_pretrained(checkpoints / TEXTS).eval()
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in SENTENCES]
    return torch.stack(rows).numpy()


@pytest.fixture(scope="module")
def verified(gateway_files):
    """TLS and token of the gateway."""
    return {"tls": TLS(ca_file=gateway_files / "ca.pem"), "token": (gateway_files / "token").read_text()}


@pytest.fixture
def http(text_front, gateway_files):
    """A plain HTTP client of the gateway, with the token."""
    context = ssl.create_default_context(cafile=gateway_files / "ca.pem")
    headers = {"authorization": f"Bearer {(gateway_files / 'token').read_text()}"}
    address = f"https://{text_front.address('gateway')}"
    with httpx.Client(base_url=address, verify=context, headers=headers, timeout=60) as client:
        yield client


def as_json(texts: list[str]) -> str:
    """A request as a program without Triton's client would write it."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts), 1], "data": texts}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "embedding"}]})


def test_exported_and_served(text_front, reference):
    """One command does both; the image of the server has what the tokenize step needs, on both protocols."""
    assert text_front.inspect("export")["State"]["ExitCode"] == 0
    for url in (text_front.address("grpc"), f"http://{text_front.address('http')}"):
        with Client(url, model=TEXTS, timeout_s=PATIENCE_S) as client:
            assert np.abs(client.embed_texts(SENTENCES) - reference).max() <= TOLERANCE


def test_healthy_means_both_of_its_models(text_front):
    """The health check asks for the ensembles; the launcher's canary of each is a text that it answers."""
    said = text_front.execute("triton", "vitriton-health", "--repository", "/data/models").stdout
    assert all(f"{TEXTS}_{kind}" in said for kind in ("text_pooled", "text_unpooled"))
    assert "cannot answer the canary" not in text_front.logs("triton")


def test_a_second_up_exports_nothing(text_front):
    """Where the volume holds the model, the export says so."""
    text_front.up("triton", "gateway")
    assert text_front.logs("export").splitlines()[-1] == f"{TEXTS} is in /data/models already"


@pytest.mark.parametrize("protocol", ["grpcs", "https"])
def test_texts_pass_the_gateway(protocol, text_front, verified, reference):
    """Also more of them than JSON may have; a refusal comes back as what it is."""
    with Client(f"{protocol}://{text_front.address('gateway')}", model=TEXTS, timeout_s=120.0, **verified) as client:
        assert np.abs(client.embed_texts(SENTENCES) - reference).max() <= TOLERANCE
        assert len(client.embed_texts(["the quick brown fox " * 4000])) == 1
        with pytest.raises(InvalidText):
            client.embed_texts(["the " * 100_000])


def test_texts_as_json_have_the_limit_of_json(http, reference):
    """They are embedded up to GATEWAY_MAX_JSON; over it the gateway says which limit that is."""
    path = f"/v2/models/{MODEL}/infer"
    answer = http.post(path, content=as_json(SENTENCES))
    assert answer.status_code == 200, answer.text
    (embedding,) = answer.json()["outputs"]
    assert np.abs(np.reshape(embedding["data"], embedding["shape"]) - reference).max() <= TOLERANCE
    refused = http.post(path, content=as_json(["the quick brown fox " * 2000]))
    assert refused.status_code == 413
    assert "32k of JSON" in refused.text
