"""Triton's statistics: what they say of a request, and of what holds it up."""

import pytest
from vitriton_bench._statistics.counters import Counters, parse
from vitriton_bench._statistics.split import Split, Steps, bottleneck, split

MS = 10**6  # in ns
STEPS = Steps(ensemble="e", preprocess="p", encoder="n", instances={"p": 1, "n": 1})


def answer(number):
    """As Triton tells it; `number` makes a number in the form of the protocol."""
    return {
        "model_stats": [
            {
                "name": "n",
                "version": "1",
                "inference_count": number(6),
                "execution_count": number(2),
                "inference_stats": {
                    "success": {"count": number(3), "ns": number(90)},
                    "queue": {"count": number(3), "ns": number(30)},
                    "compute_input": {"count": number(3), "ns": number(3)},
                    "compute_infer": {"count": number(3), "ns": number(50)},
                    "compute_output": {"count": number(3), "ns": number(2)},
                },
                "batch_stats": [
                    {"batch_size": number(2), "compute_infer": {"count": number(1), "ns": number(20)}},
                    {"batch_size": number(4), "compute_infer": {"count": number(1), "ns": number(30)}},
                ],
            }
        ]
    }


@pytest.mark.parametrize("number", [int, str], ids=["HTTP", "gRPC"])
def test_both_protocols_tell_the_same(number):
    """GRPC's 64-bit numbers are text in its dict."""
    assert parse(answer(number)) == {
        "n": Counters(
            requests=3,
            images=6,
            executions=2,
            request_ns=90,
            queue_ns=30,
            input_ns=3,
            infer_ns=50,
            output_ns=2,
            busy_ns=50,
            inside_ns=50,
        )
    }


def test_the_versions_of_a_model_are_added_up():
    """While a model is replaced both of its versions answer."""
    twice = {"model_stats": answer(int)["model_stats"] * 2}
    assert parse(twice)["n"].images == 12


def test_what_is_missing_counts_as_nothing():
    """A model that has answered nothing yet has no statistics, over gRPC not even zeros."""
    assert parse({"model_stats": [{"name": "n"}]}) == {"n": Counters()}


def look(requests, images, executions):
    """Counters after so many requests of 100 ms: 40 ms in queues, 10 decoding, 45 encoding, 4 copying."""
    return {
        "e": Counters(requests=requests, request_ns=100 * MS * requests),
        "p": Counters(
            requests=requests,
            images=images,
            executions=requests,
            infer_ns=10 * MS * requests,
            busy_ns=10 * MS * requests,
        ),
        "n": Counters(
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
    parts = split(look(10, 10, 5), look(30, 30, 15), STEPS, client_s=0.103, images_per_s=20.0)
    assert parts.client_s == pytest.approx(0.003)
    assert parts.queue_s == pytest.approx(0.040)
    assert parts.preprocess_s == pytest.approx(0.010)
    assert parts.encode_s == pytest.approx(0.045)
    assert parts.copies_s == pytest.approx(0.004)
    assert parts.other_s == pytest.approx(0.001)
    assert parts.images_per_batch == 2
    assert parts.preprocess_busy == pytest.approx(0.2)  # 10 ms an image, 20 images/s
    assert parts.encode_busy == pytest.approx(0.49)  # 49 ms for two images


def test_without_requests_there_is_nothing_to_split():
    """A measurement whose requests all failed."""
    assert split(look(3, 3, 3), look(3, 3, 3), STEPS, client_s=0.1, images_per_s=1.0) is None


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
        images_per_batch=1.0,
        preprocess_busy=preprocess,
        encode_busy=encode,
    )
    assert bottleneck(parts) == expected
