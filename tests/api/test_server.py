"""The command `vitriton api` in front of a real Triton."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from api.endpoint import png, running, uri
from vitriton import Client

pytestmark = pytest.mark.usefixtures("subprocesses")

PICTURES = [png(seed, width=20 + seed) for seed in range(5)]
TEXTS = [f"{number} a b" + " c" * number for number in range(5)]
KEY, OTHER = "k" * 30, "o" * 30


def native(triton, model: str, **inputs) -> np.ndarray:
    """The vectors that the native client returns."""
    with Client(triton.grpc_address, model=model) as client:
        return client.embed(inputs["images"]) if "images" in inputs else client.embed_texts(inputs["texts"])


def same(given, expected: np.ndarray) -> None:
    """To the last bit."""
    rows = np.array(given, np.float32)
    assert rows.shape == expected.shape
    assert rows.tobytes() == expected.tobytes()


@pytest.fixture
def stock(endpoint):
    """The stock client."""
    with openai.OpenAI(base_url=endpoint.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}], ids=str)
def test_the_stock_client(stock, triton, encoding):
    """Without an encoding it asks for base64, and returns numbers."""
    answer = stock.embeddings.create(model="texts", input=TEXTS, **encoding)
    if encoding.get("encoding_format") == "base64":
        rows = [np.frombuffer(base64.b64decode(row.embedding), "<f4") for row in answer.data]
    else:
        rows = [row.embedding for row in answer.data]
    same(rows, native(triton, "texts", texts=TEXTS))
    assert (answer.usage.prompt_tokens, answer.model) == (sum(min(8, len(text.split())) for text in TEXTS), "texts")
    answer = stock.embeddings.create(model="photos", input=list(map(uri, PICTURES)))
    same([row.embedding for row in answer.data], native(triton, "photos", images=PICTURES))
    assert answer.usage.model_extra == {"images": 5}


def test_the_stock_client_for_asyncio(endpoint, triton):
    """Many requests at a time, each with its own vectors."""

    async def embed():
        async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key="none", max_retries=0) as client:
            calls = [client.embeddings.create(model="texts", input=[text]) for text in TEXTS * 8]
            return [answer.data[0].embedding for answer in await asyncio.gather(*calls)]

    same(asyncio.run(embed()), np.tile(native(triton, "texts", texts=TEXTS), (8, 1)))


def test_its_errors(stock):
    """Its own classes of errors, with code and param."""
    with pytest.raises(openai.NotFoundError) as missing:
        stock.embeddings.create(model="none", input="a")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.UnprocessableEntityError) as bad:
        stock.embeddings.create(model="photos", input=[uri(PICTURES[0]), uri(PICTURES[1][:60]), uri(b"")])
    assert bad.value.param == "input[1], input[2]"
    with pytest.raises(openai.BadRequestError, match="token ids"):
        stock.embeddings.create(model="texts", input=[[1, 2, 3]])
    headers = {"x-vitriton-expect-fingerprint": "another"}
    with pytest.raises(openai.ConflictError):
        stock.embeddings.create(model="texts", input="a", extra_headers=headers)


def test_curl(endpoint, triton):
    """The line of the guide."""
    body = json.dumps({"model": "texts", "input": TEXTS})
    command = ["curl", "-sS", "--fail", f"{endpoint.base_url}/embeddings", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", "@-"], input=body, capture_output=True, text=True, check=True)
    same([row["embedding"] for row in json.loads(done.stdout)["data"]], native(triton, "texts", texts=TEXTS))


def test_mixed_inputs(endpoint):
    """Each of two towers gets its own, and their order stays; these two have rows of different lengths."""
    inputs = [each for text, picture in zip(TEXTS, PICTURES, strict=True) for each in (text, uri(picture))]
    inputs[3] = {"image": base64.b64encode(PICTURES[1]).decode()}
    rows = endpoint.call("/v1/embeddings", {"model": "both", "input": inputs}).document["data"]
    assert [row["embedding"][0] for row in rows[::2]] == [0.0, 1.0, 2.0, 3.0, 4.0]  # the texts' numbers
    assert [row["embedding"][3] for row in rows[1::2]] == [20.0, 21.0, 22.0, 23.0, 24.0]  # the pictures' widths


def test_cohere(endpoint, triton):
    """Every embedding type, against numpy's arithmetic on the native client's vectors."""
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    content = [{"content": [{"type": "image_url", "image_url": {"url": uri(each)}}]} for each in PICTURES]
    document = {"model": "photos", "input_type": "image", "inputs": content, "embedding_types": types}
    answer = endpoint.call("/v2/embed", document).document
    vectors = native(triton, "photos", images=PICTURES)
    wide = vectors.astype(float)
    int8 = np.rint(127 * wide / np.abs(wide).max(axis=1, keepdims=True)).astype(int)
    bits = np.packbits(vectors > 0, axis=1).astype(int)
    embeddings = answer["embeddings"]
    same(embeddings["float"], vectors)
    same([np.frombuffer(base64.b64decode(row), "<f4") for row in embeddings["base64"]], vectors)
    expected = {"int8": int8, "uint8": int8 + 128, "ubinary": bits, "binary": bits - 128}
    assert {name: embeddings[name] for name in expected} == {name: rows.tolist() for name, rows in expected.items()}
    assert answer["response_type"] == "embeddings_by_type"
    assert answer["meta"]["billed_units"] == {"input_tokens": 0, "images": 5}


def test_no_file_and_no_private_network(triton, tmp_path):
    """Even where URLs are fetched."""
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    with socket.create_server(("127.0.0.1", 0)) as listener, running(triton.grpc_address, "--fetch-urls") as endpoint:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        answer = endpoint.call("/v1/embeddings", {"model": "photos", "input": [url], "modality": "image"})
        assert (answer.status, answer.error["code"]) == (403, "address_refused")
        assert "127.0.0.1" not in answer.error["message"]
        assert "refuse_" not in answer.error["message"]
        with pytest.raises(TimeoutError):
            listener.accept()
        for path in (str(tmp_path / "a.png"), (tmp_path / "a.png").as_uri()):
            answer = endpoint.call("/v1/embeddings", {"model": "photos", "input": [path], "modality": "image"})
            assert (answer.status, answer.error["code"]) == (422, "bad_url")


def test_keys_are_reloaded(triton, tmp_path):
    """While requests go on."""
    keys = tmp_path / "keys"
    keys.write_text(f"a {KEY}\n")
    document = {"model": "texts", "input": "1 a"}
    with running(triton.grpc_address, "--api-keys-file", keys) as endpoint:

        def status(key: str) -> int:
            return endpoint.call("/v1/embeddings", document, authorization=f"Bearer {key}").status

        assert (status(KEY), status(OTHER)) == (200, 401)
        assert endpoint.call("/v1/embeddings", document).status == 401
        keys.write_text(f"b {OTHER}\n")
        wait_until(lambda: status(OTHER) == 200)
        assert status(KEY) == 401


def held(tmp_path, name: str) -> tuple[str, object]:
    """An image at which the model stops until the file `gate` is there, and that file."""
    gate = tmp_path / name
    return uri(f"hold:{gate}".encode()), gate


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_endpoint_answers_at_once(triton, tmp_path):
    """429 with Retry-After while another request is with Triton."""
    image, gate = held(tmp_path, "gate")
    with running(triton.grpc_address, "--max-in-flight", 1) as endpoint, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(endpoint.call, "/v1/embeddings", {"model": "photos", "input": image})
        try:
            wait_until(gate.with_suffix(".held").exists)
            answer = endpoint.call("/v1/embeddings", {"model": "texts", "input": "1"})
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert endpoint.call("/health/ready").status == 200
        finally:
            gate.touch()
        assert waiting.result().status == 200


def test_a_caller_that_leaves(triton, tmp_path):
    """Its request stays in Triton's queue, and its place is taken until that has ended; then it is free."""
    image, gate = held(tmp_path, "gate")
    body = json.dumps({"model": "photos", "input": image}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: e\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    )
    with running(triton.grpc_address, "--max-in-flight", 1) as endpoint:
        host, port = endpoint.url.removeprefix("http://").split(":")
        try:
            with socket.create_connection((host, int(port))) as caller:
                caller.sendall(head.encode() + b"\r\n" + body)
                wait_until(gate.with_suffix(".held").exists)
            time.sleep(0.5)
            assert endpoint.metric("vitriton_api_in_flight_requests") == 1
            assert endpoint.call("/v1/embeddings", {"model": "texts", "input": "1"}).status == 429
            gate.touch()
            wait_until(lambda: endpoint.metric("vitriton_api_in_flight_requests") == 0)
            assert endpoint.call("/v1/embeddings", {"model": "texts", "input": "1"}).status == 200
            wait_until(lambda: 'status="499"' in endpoint.call("/metrics").body.decode())
        finally:
            gate.touch()


def test_a_stop(triton, tmp_path):
    """While it drains, readiness is 503 and requests are taken; those in flight are answered; the exit code is 0."""
    image, gate = held(tmp_path, "gate")
    with running(triton.grpc_address, "--drain", 6) as endpoint, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(endpoint.call, "/v1/embeddings", {"model": "photos", "input": image})
        wait_until(gate.with_suffix(".held").exists)
        endpoint.process.send_signal(signal.SIGTERM)
        wait_until(lambda: endpoint.call("/health/ready").status == 503)
        assert endpoint.call("/v1/embeddings", {"model": "texts", "input": "1"}).status == 200
        wait_until(lambda: takes_no_connection(endpoint))  # the drain is over
        assert endpoint.process.poll() is None
        gate.touch()
        assert waiting.result().status == 200
        assert endpoint.process.wait(60) == 0


def takes_no_connection(endpoint) -> bool:
    try:
        endpoint.call("/health/live")
    except ConnectionError:
        return True
    return False


def test_a_stop_that_cuts_off(triton, tmp_path):
    """A request that takes too long ends, and the exit code says so."""
    image, gate = held(tmp_path, "gate")
    with running(triton.grpc_address, "--exit-timeout", 0.5) as endpoint, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(endpoint.call, "/v1/embeddings", {"model": "photos", "input": image})
        try:
            wait_until(gate.with_suffix(".held").exists)
            endpoint.process.send_signal(signal.SIGTERM)
            assert endpoint.process.wait(60) == 1
        finally:
            gate.touch()
        answer = waiting.result()
        assert (answer.status, answer.error["code"]) == (503, "stopping")


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_named_models_over_either_protocol(triton, scheme):
    """Only those; another one of the server is not there."""
    address = {"grpc": triton.grpc_address, "http": triton.http_address}[scheme]
    with running(f"{scheme}://{address}", "--model", "texts", "--model", "photos") as endpoint:
        listed = endpoint.call("/v1/models").document["data"]
        assert [(model["id"], model["fingerprint"], model["modalities"]) for model in listed] == [
            ("photos", "space-1", ["image"]),
            ("texts", "space-1", ["text"]),
        ]
        assert endpoint.call("/v1/embeddings", {"model": "both", "input": "1"}).status == 404


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--model", "nope"), r"warning: not ready: .*nope.*texts"), ((), r"warning: not ready: .*gRPC")],
    ids=["another model", "the HTTP port"],
)
def test_the_log_says_what_is_wrong_from_the_start(triton, tmp_path, options, says):
    """A name that the server does not have, with those that it has; the port of another protocol."""
    log = tmp_path / "log"
    address = triton.grpc_address if options else f"grpc://{triton.http_address}"
    with log.open("w") as file, running(address, *options, waits=False, log=file):
        wait_until(lambda: re.search(says, log.read_text()))


@pytest.mark.parametrize(("host", "warns"), [("localhost", False), ("::1", False), ("0.0.0.0", True)])
def test_where_it_listens(triton, tmp_path, host, warns):
    """Beyond loopback and without keys, a line says who can use it."""
    with (tmp_path / "log").open("w") as log, running(triton.grpc_address, "--host", host, log=log) as endpoint:
        assert endpoint.call("/v1/embeddings", {"model": "texts", "input": "1"}).status == 200
    assert ("there are no keys (--api-keys-file)" in (tmp_path / "log").read_text()) == warns


def test_a_port_that_is_taken(endpoint):
    """One line, and exit code 1."""
    port = endpoint.url.rpartition(":")[2]
    program = endpoint.process.args[0]
    done = subprocess.run([program, "api", "--port", port], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: 127.0.0.1 port {port} cannot be listened on: Address already in use")
