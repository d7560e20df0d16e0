"""What perf_analyzer is told, and what is read of its answer."""

from pathlib import Path

import pytest
from vitriton_bench._errors import BenchError
from vitriton_bench._load.perf_analyzer import arguments, long_enough, parse_table, poisson_intervals
from vitriton_bench._load.point import Point, at_rate, grid
from vitriton_bench._load.target import Target

TARGET = Target(
    addresses={"grpc": "host:8001", "http": "host:8000"}, payload=Path("payload.json"), output_bytes={"pooled": 3072}
)


def told(point):
    """Options and their values, as one text."""
    return " ".join(arguments("model", point, TARGET, 2.0, Path("folder")))


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (Point(), "-m model -u host:8001 -i grpc --input-data payload.json -b 1 --concurrency-range 1:1"),
        (Point(protocol="http", batch=8, concurrency=4), "-u host:8000 -i http --input-data payload.json -b 8"),
        (Point(concurrency=4), "--concurrency-range 4:4"),
        (Point(shared_memory="system"), "--shared-memory system --output-shared-memory-size 3072"),
        (at_rate(Point(), 3.5, "constant"), "--max-threads 7 --request-rate-range 3.5:3.5"),
        (at_rate(Point(), 0.5, "poisson"), "--max-threads 4 --request-intervals folder/intervals.txt"),
        (Point(), "--measurement-interval 2000 --max-trials 3"),
    ],
)
def test_a_point_as_options(point, expected):
    """Each setting has its options."""
    assert expected in told(point)


def test_a_grid_has_every_combination():
    """Two of each of five settings."""
    points = grid(["pooled", "unpooled"], ["grpc", "http"], [1, 8], [1, 32], ["none", "system"])
    assert len(set(points)) == 32


@pytest.mark.parametrize(
    ("point", "rows", "seconds"),
    [
        (Point(concurrency=32), [], 9.0),
        (Point(concurrency=32), [{"inputs_per_s": 100.0}], 9.0),
        (Point(concurrency=32), [{"inputs_per_s": 100.0}, {"inputs_per_s": 4.0}], 28.8),
        (Point(concurrency=2, batch=16), [{"inputs_per_s": 4.0}], 28.8),
    ],
)
def test_a_slow_model_is_measured_longer(point, rows, seconds):
    """By what was measured last: a window must have an answer for every caller."""
    assert long_enough(point, 9.0, rows) == pytest.approx(seconds)


def test_intervals_have_the_rate_that_was_asked_for():
    """So that a short measurement has no other load than a long one, and two have the same."""
    text = poisson_intervals(5.0, 20.0)
    intervals = [int(line) for line in text.splitlines()]
    assert len(intervals) == 100
    assert sum(intervals) / len(intervals) == pytest.approx(200_000, rel=1e-3)
    assert text == poisson_intervals(5.0, 20.0)


def test_the_table_of_perf_analyzer():
    """Latencies are in microseconds there."""
    head = "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency"
    assert parse_table(f"{head}\n4,6.26,37,604572,927841,1001609,1068479,614040\n") == {
        "inputs_per_s": 6.26,
        "p50_ms": 604.572,
        "p90_ms": 927.841,
        "p99_ms": 1068.479,
        "mean_ms": 614.04,
    }


@pytest.mark.parametrize("text", ["", "Concurrency,Inferences/Second\n", "Concurrency,Inferences/Second\n1,many\n"])
def test_another_table_is_an_error(text):
    """It says what it found."""
    with pytest.raises(BenchError, match="not understood"):
        parse_table(text)
