"""Triton's statistics: what they say of a request, and of what holds it up."""

import pytest
from vitriton._wire.statistics import ModelStatistics
from vitriton_bench._statistics.split import EnsembleSteps, Split, bottleneck, split

MS = 10**6  # in ns
STEPS = EnsembleSteps(ensemble="e", preprocess="p", encoder="n", instances={"p": 1, "n": 1})


def look(requests, images, executions):
    """Counters after so many requests of 100 ms: 40 ms in queues, 10 decoding, 45 encoding, 4 copying."""
    return {
        "e": ModelStatistics(name="e", requests=requests, request_ns=100 * MS * requests),
        "p": ModelStatistics(
            name="p",
            requests=requests,
            images=images,
            executions=requests,
            infer_ns=10 * MS * requests,
            busy_ns=10 * MS * requests,
        ),
        "n": ModelStatistics(
            name="n",
            requests=requests,
            images=images,
            executions=executions,
            queue_ns=40 * MS * requests,
            infer_ns=45 * MS * requests,
            input_ns=3 * MS * requests,
            output_ns=1 * MS * requests,
            busy_ns=49 * MS * executions,
        ),
    }


def test_the_time_of_a_request_is_split():
    """Only what came between two looks counts; the rest of what the caller saw is the client's."""
    parts = split(look(10, 10, 5), look(30, 30, 15), STEPS, client_s=0.103, inputs_per_s=20.0)
    assert parts.client_s == pytest.approx(0.003)
    assert parts.queue_s == pytest.approx(0.040)
    assert parts.preprocess_s == pytest.approx(0.010)
    assert parts.encode_s == pytest.approx(0.045)
    assert parts.copies_s == pytest.approx(0.004)
    assert parts.other_s == pytest.approx(0.001)
    assert parts.inputs_per_batch == 2
    assert parts.preprocess_busy == pytest.approx(0.2)  # 10 ms an image, 20 images/s
    assert parts.encode_busy == pytest.approx(0.49)  # 49 ms for two images


def test_without_requests_there_is_nothing_to_split():
    """A measurement whose requests all failed."""
    assert split(look(3, 3, 3), look(3, 3, 3), STEPS, client_s=0.1, inputs_per_s=1.0) is None


@pytest.mark.parametrize(
    ("encode", "preprocess", "client_s", "expected"),
    [
        (0.97, 0.20, 0.0, "encoder"),
        (0.90, 0.95, 0.0, "preprocessing"),
        (0.30, 0.95, 0.0, "preprocessing"),
        (0.60, 0.20, 0.001, "too few callers"),
        (0.10, 0.05, 0.200, "client and wire"),
    ],
)
def test_where_the_bottleneck_is(encode, preprocess, client_s, expected):
    """A step that is always busy; else the client, if it takes longer than the steps; else nobody asks for more."""
    parts = Split(
        client_s=client_s,
        queue_s=0.0,
        preprocess_s=0.01,
        encode_s=0.05,
        copies_s=0.0,
        other_s=0.0,
        inputs_per_batch=1.0,
        preprocess_busy=preprocess,
        encode_busy=encode,
    )
    assert bottleneck(parts, "image") == expected
    assert bottleneck(parts, "text") == expected.replace("preprocessing", "tokenizing")
