"""Texts that are refused, in every request of a heavy load on a real Triton: all others are answered, nothing grows."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from client.chaos import PATIENCE_S, WAYS, resident_bytes
from support import exports, siege, text_architectures
from vitriton import Client, InvalidText, Options
from vitriton._wire.connect import connect
from vitriton._wire.transport import CallError, InferRequest
from vitriton_server import TritonServer

pytestmark = pytest.mark.long

IN_FLIGHT = 32
MAX_BYTES = 1000
GOOD = ["", "word " * 150, *(" ".join(["the quick brown fox"] * count) for count in (1, 2, 3, 5, 8, 13))]
# What the server refuses is sent, as the client is told of no limit; what is no text stays in the client.
BAD = {"too_large": "x" * (MAX_BYTES + 1), "encoding": "half \ud800", "kind": 7}
ROUNDS, PHASES = 12, 4


@pytest.fixture(scope="module")
def server(subprocesses, tmp_path_factory):
    """A small BERT that refuses texts of over 1000 bytes, and does not tell clients."""
    folder = tmp_path_factory.mktemp("hostile")
    checkpoint = text_architectures.write("bert", folder / "bert")
    exports.export(checkpoint, folder / "models", name="bert", outputs="pooled", max_text_bytes=MAX_BYTES)
    config = folder / "models" / "bert_text_pooled" / "config.pbtxt"
    told, text = r"max_text_bytes\":", config.read_text()
    assert text.count(f"{told}{MAX_BYTES}}}") == 1
    config.write_text(text.replace(f"{told}{MAX_BYTES}", f"{told}1000000"))
    with TritonServer(folder / "models") as running:
        yield running


@pytest.fixture(scope="module")
def alone(server):
    """The vector of each good text, embedded alone."""
    with Client(server.grpc_address, model="bert") as client:
        vectors = np.concatenate([client.embed_texts(text) for text in GOOD])
    assert np.ptp(vectors, axis=0).max() > 0.1  # or each would be right for all
    return vectors


def call(client, alone, number):
    """One call with a bad text, at another place each time: its results, or the error that names it."""
    code, bad = list(BAD.items())[number % len(BAD)]
    place = number % (len(GOOD) + 1)
    texts = [*GOOD[:place], bad, *GOOD[place:]]
    if number % 4 == 0:
        with pytest.raises(InvalidText, match=rf"^text {place} of {len(texts)}: ") as caught:
            client.embed_texts(texts, timeout_s=PATIENCE_S)
        assert [(error.index, error.code) for error in caught.value.errors] == [(place, code)]
        return 0
    results = client.embed_texts(texts, timeout_s=PATIENCE_S, on_error="return")
    assert [result.index for result in results] == list(range(len(texts)))
    refused = results.pop(place)
    assert (refused.error.index, refused.error.code) == (place, code)
    np.testing.assert_allclose([result.embedding for result in results], alone, atol=1e-4)
    return len(results)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_load_with_a_bad_text_in_every_call(server, alone, way):
    """32 calls at a time: each names its bad text, and has the vectors of all others; memory stays where it was."""
    usage, sizes, answered = [], [], 0
    options = Options(max_in_flight=IN_FLIGHT)
    with (
        way.connect(way.address(server), model="bert", options=options) as client,
        ThreadPoolExecutor(IN_FLIGHT) as threads,
    ):
        for _ in range(PHASES):
            usage.append(siege.usage_of(server.pid))
            calls = range(ROUNDS * IN_FLIGHT)
            answered += sum(threads.map(call, itertools.repeat(client), itertools.repeat(alone), calls))
            sizes.append(resident_bytes())
        usage.append(siege.usage_of(server.pid))
    report = siege.Report(usage=usage[1:])
    grown = min(later - earlier for earlier, later in itertools.pairwise(sizes))  # a leak is in each phase
    print(f"{way}: {answered} texts; client {grown / 2**20:.1f} MiB more in a phase, server {report.growth()}")
    assert answered == PHASES * sum(number % 4 > 0 for number in calls) * len(GOOD)
    assert not report.restarted
    assert grown < 2 * 2**20
    assert max(report.growth()) < 0.05


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_texts_that_no_client_sends(server, scheme):
    """What is not UTF-8 is named by the server, with what else is bad in its request, among 32 requests at a time."""
    address = {"grpc": server.grpc_address, "http": server.http_address}[scheme]
    good = [text.encode() for text in GOOD]
    (transport,) = connect(f"{scheme}://{address}")

    def send(number):
        place = number % (len(GOOD) + 1)
        bad = [b"\xff", BAD["too_large"].encode()] if number % 2 else []
        request = InferRequest(
            model="bert_text_pooled",
            input_name="text",
            images=[*good[:place], *bad, *good[place:]],
            output_name="embedding",
            timeout_s=PATIENCE_S,
        )
        if not bad:
            assert tuple(transport.infer(request, PATIENCE_S).shape) == (len(GOOD), 32)
            return
        with pytest.raises(CallError) as caught:
            transport.infer(request, PATIENCE_S)
        assert f'[{place}, "is not UTF-8 (byte 0xff at position 0)"]' in caught.value.message
        assert f'[{place + 1}, "{MAX_BYTES + 1} bytes are over the limit of {MAX_BYTES}"]' in caught.value.message

    try:
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            assert len(list(threads.map(send, range(20 * IN_FLIGHT)))) == 20 * IN_FLIGHT
    finally:
        transport.close()
