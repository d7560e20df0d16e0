"""Bodies that are wrong in every way, and bodies that are large: clean errors, and memory that stays flat."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from api.endpoint import JSON, Running, png, running, uri

pytestmark = pytest.mark.usefixtures("subprocesses")

URI = uri(png())
MIB = 1024 * 1024
CALLERS = 8
PATHS = ("/v1/embeddings", "/v2/embed")


def memory_bytes(endpoint: Running, what: str) -> int:
    """VmRSS, or VmHWM, the peak."""
    lines = Path(f"/proc/{endpoint.process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def valid(chance: random.Random) -> dict:
    image = {"type": "image_url", "image_url": {"url": URI}}
    return chance.choice(
        [
            {"model": "both", "input": ["a", URI], "encoding_format": "base64"},
            {"model": "both", "input": [{"image": URI}], "dimensions": 4},
            {"model": "both", "messages": [{"role": "user", "content": [image]}]},
            {"model": "both", "inputs": [{"content": [image]}], "embedding_types": ["int8"]},
        ]
    )


WRONG = [None, True, 5, -1.5, 1e300, "", [], {}, [[]], [{}], {"a": {}}, [None], ["a", 1]]


def of_a_wrong_type(chance: random.Random) -> bytes:
    document = valid(chance)
    field = chance.choice(
        [name for name in document if name not in ("dimensions", "encoding_format", "embedding_types")]
    )
    return json.dumps(document | {field: chance.choice(WRONG)}).encode()


def cut(chance: random.Random) -> bytes:
    whole = json.dumps(valid(chance)).encode()
    return whole[: chance.randrange(len(whole) - 1)]


def garbled(chance: random.Random) -> bytes:
    whole = bytearray(json.dumps(valid(chance)).encode())
    for _ in range(chance.randint(1, 20)):
        whole[chance.randrange(len(whole))] = chance.choice(b'\x00\xff\x80"{}[],:')
    whole[0] = chance.choice(b"[\x00\xff}")
    return bytes(whole)


def nested(chance: random.Random) -> bytes:
    depth = chance.choice([10, 1000, 100_000])
    opens, closes = chance.choice([("[", "]"), ('{"input":', "}"), ('{"content":[', "]}")])
    inside = opens * depth + "1" + closes * (depth if chance.random() < 0.5 else 0)
    return b'{"model": "both", "input": ' + inside.encode() + b"}"


def huge_number(chance: random.Random) -> bytes:
    number = chance.choice(["1" * 5000, "1e999999", "-1e400", "9" * 30, "1e-999999", "0." + "1" * 5000])
    field = chance.choice(['"dimensions"', '"input"', '"output_dimension"', '"model"'])
    return f'{{"model": "both", "input": "a", {field}: {number}}}'.encode()


def wrong_image(chance: random.Random) -> bytes:
    good = URI.partition(",")[2]
    given = chance.choice(
        [
            "data:image/png;base64,####",
            f"data:image/png;base64,{good[: chance.randrange(1, 60)]}",
            "data:image/png;base64,",
            f"data:image/png,{good}",
            f"data:text/html;base64,{good}",
            f"data:application/x-tar;base64,{good}",
            f"data:image/png;base64,{'A' * 4000}",
            f"data:image/svg+xml;base64,{good[:100]}",
        ]
    )
    return json.dumps({"model": "both", "input": ["a", given, URI]}).encode()


def unknown_field(chance: random.Random) -> bytes:
    return json.dumps(valid(chance) | {"x" * chance.choice([1, 1000]): 1}).encode()


KINDS = (of_a_wrong_type, cut, garbled, nested, huge_number, wrong_image, unknown_field)


def bodies(count: int, seed: int) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    chance = random.Random(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        body, headers = kind(chance), dict(JSON)
        if chance.random() < 0.05:
            body, headers["content-encoding"] = gzip.compress(bytes(MIB)), chance.choice(["gzip", "deflate", "br"])
        yield kind.__name__, body, headers


def send(endpoint: Running, count: int, seed: int) -> Counter:
    """How often each kind of body had each status."""
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=120)
    found: Counter = Counter()
    for number, (kind, body, headers) in enumerate(bodies(count, seed)):
        connection.request("POST", PATHS[number % 2], body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert 400 <= answer.status < 500, (kind, body[:500], answer.status, text)
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"], (kind, body[:500])
        assert len(text) < 3000, text
        found[kind, answer.status] += 1
    connection.close()
    return found


def test_a_thousand_malformed_bodies(endpoint):
    """Only clean 4xx in OpenAI's form; memory does not grow, and the endpoint still answers."""
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda seed: send(endpoint, 40, seed), range(CALLERS)))
        before = memory_bytes(endpoint, "VmRSS")
        found = sum(pool.map(lambda seed: send(endpoint, 125, seed), range(100, 100 + CALLERS)), Counter())
    assert found.total() == 1000
    assert {kind for kind, _ in found} == {kind.__name__ for kind in KINDS}
    assert memory_bytes(endpoint, "VmRSS") - before < 20 * MIB
    assert endpoint.call("/v1/embeddings", {"model": "both", "input": ["1", URI]}).status == 200


def test_the_memory_of_many_large_bodies(triton):
    """Of 32 bodies of 64 MiB at a time, some are taken and the others refused at once: the peak stays."""
    head, tail = b'{"model": "photos", "input": ["data:image/png;base64,', b'"]}'
    images = b'","data:image/png;base64,'.join([b"A" * (16 * MIB - 64)] * 4)
    body = head + images + tail
    assert 63 * MIB < len(body) < 64 * MIB
    with running(triton.grpc_address) as endpoint:
        statuses: Counter = Counter()
        lock = threading.Lock()

        def post(_: int) -> None:
            connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=300)
            connection.request("POST", "/v1/embeddings", body, JSON)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            with lock:
                statuses[answer.status] += 1

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(post, range(32)))
            list(pool.map(post, range(16)))
        assert set(statuses) == {415, 429}, statuses  # no images; and not now
        # four times --max-held-bytes, and the program
        assert memory_bytes(endpoint, "VmHWM") < 4 * 256 * MIB + 200 * MIB
        assert endpoint.metric("vitriton_api_held_bytes") == 0
