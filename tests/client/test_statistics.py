"""What the models of a Triton have counted, as both protocols tell it."""

import pytest
from vitriton._wire.statistics import ModelStatistics, by_model, read_statistics


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
    assert by_model(read_statistics(answer(number))) == {
        "n": ModelStatistics(
            name="n",
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
    assert by_model(read_statistics(twice))["n"].images == 12


def test_what_is_missing_counts_as_nothing():
    """A model that has answered nothing yet has no statistics, over gRPC not even zeros."""
    assert by_model(read_statistics({"model_stats": [{"name": "n"}]})) == {"n": ModelStatistics(name="n")}
