"""bench/ceiling.py for tenths of a second, and its model: tables."""

import json

import ceiling
import pytest
from ceiling_model import Costs, bound, instances_for, rate

COSTS = Costs(step_ms=2.0, held_ms=0.5, server_ms=0.5, caller_ms=0.0)


@pytest.mark.parametrize(
    ("cores", "instances", "encoder_per_s", "expected", "part"),
    [
        (2, 1, None, 800.0, "cores"),
        (64, 1, None, 2000.0, "step"),
        (64, 4, None, 8000.0, "step"),
        (64, 4, 5000.0, 5000.0, "encoder"),
        (4, 4, 5000.0, 1600.0, "cores"),
    ],
)
def test_the_least_of_three_bounds(cores, instances, encoder_per_s, expected, part):
    """The cores, the lock of the step's processes, and the encoder."""
    assert rate(COSTS, cores, instances, encoder_per_s) == expected
    assert bound(COSTS, cores, instances, encoder_per_s) == part


@pytest.mark.parametrize(
    ("cores", "encoder_per_s", "expected"),
    [(2, None, 1), (8, 200.0, 1), (16, 5000.0, 4), (64, 5000.0, 4), (64, None, 19)],
)
def test_as_many_processes_as_the_rest_needs(cores, encoder_per_s, expected):
    """With room for threads that wait for the lock."""
    assert instances_for(COSTS, cores, encoder_per_s) == expected
    assert bound(COSTS, cores, expected, encoder_per_s) != "step"


@pytest.mark.long
@pytest.mark.usefixtures("subprocesses")
def test_a_short_run(tmp_path, capsys):
    """It measures each way, and prints its tables."""
    ceiling.main(["--rounds", "1", "--seconds", "0.3", "--json", str(tmp_path / "ceiling.json")])
    lines = capsys.readouterr().out.splitlines()
    for start in ("JPEG 500 x 375", "WEBP 500 x 375", "1 preprocess", "4 preprocess", "pixels", "32 pixels a request"):
        assert any(line.startswith(start) for line in lines), start
    document = json.loads((tmp_path / "ceiling.json").read_text())
    assert all(each["held_ms"] > 0 for each in document["lock"])
    assert document["path"]["1 preprocess"]["images_per_s"][0] > 0
