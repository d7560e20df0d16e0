"""Other libraries against the endpoint, in an environment of their own: `make test-peers`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from api.endpoint import png, uri
from vitriton import Client

pytestmark = [pytest.mark.usefixtures("subprocesses"), pytest.mark.peers]

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv-peers" / "bin"
HERE = Path(__file__).parent / "peers"
TEXTS = ["1 a b", "2", "3 " + "c " * 20]
PICTURES = [png(seed) for seed in range(3)]
# Neither asks anything of another host: litellm has its list of models with it.
ALONE = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}


def test_their_vectors_are_those_of_the_native_client(endpoint, triton):
    """LangChain, litellm and Cohere's client: to the last bit."""
    given = json.dumps({"texts": TEXTS, "images": list(map(uri, PICTURES))})
    command = [BIN / "python", HERE / "vectors.py", endpoint.base_url]
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=ALONE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    with Client(triton.grpc_address, model="texts") as texts, Client(triton.grpc_address, model="photos") as photos:
        expected = {"text": texts.embed_texts(TEXTS), "image": photos.embed(PICTURES)}
        expected["cohere"] = texts.embed_texts(TEXTS, prompt="passage")  # what search_document means to this model
    assert len(found) == 5
    for name, rows in found.items():
        vectors = expected["cohere" if name == "cohere" else "image" if name.endswith("images") else "text"]
        assert np.array(rows, np.float32).tobytes() == vectors.tobytes(), name


def test_the_description_is_true(endpoint, tmp_path):
    """Schemathesis makes requests of it: no 5xx, and no answer that it does not describe.

    One check of its default run is left out: that all that fits the schema is accepted. No schema says that a string
    is an image.
    """
    command = [BIN / "st", "run", f"{endpoint.url}/openapi.json", "--exclude-checks", "positive_data_acceptance"]
    command += ["--seed", "1", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
