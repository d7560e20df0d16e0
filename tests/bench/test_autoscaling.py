"""The simulation of autoscalers: what it decides, and that the documentation has its figures."""

import itertools
from pathlib import Path

import autoscaling
import pytest

ROOT = Path(__file__).parents[2]


def test_the_load_is_joined_by_straight_lines():
    """Between two points, the load is in proportion."""
    assert autoscaling.load_at(0) == 1.0
    assert autoscaling.load_at(12.5) == 2.5
    assert autoscaling.load_at(200) == 1.0


def test_a_batch_takes_what_was_measured():
    """The line goes through the times of the report."""
    batch = autoscaling.BatchTime.of_report(ROOT / "bench" / "results" / "report.json", "int8")
    assert 5 < batch.capacity < 50
    assert batch.seconds(8) > batch.seconds(1) > 0


def test_a_scaler_is_quick_to_grow_and_slow_to_shrink():
    """It doubles at most, keeps a number within the tolerance, and ends a server a minute after five quiet ones."""
    scaler = autoscaling.Scaler()
    assert scaler.number(0.0, 2, 2, 5.0) == 4
    assert scaler.number(15.0, 4, 2, 1.0) == 4  # the new ones are not ready
    assert scaler.number(30.0, 4, 4, 1.05) == 4
    times = [15.0 * step for step in range(3, 40)]
    numbers = [4]
    for now_s in times:
        numbers.append(scaler.number(now_s, numbers[-1], numbers[-1], 0.1))
    assert numbers[18] == 4  # until 300 s after the last need
    assert numbers[-1] == autoscaling.SMALLEST
    assert all(before - after in (0, 1) for before, after in itertools.pairwise(numbers))


@pytest.mark.long
def test_the_page_has_the_figures_of_the_simulation(capsys):
    """The table in the documentation is what the command prints."""
    autoscaling.main(["--from", str(ROOT / "bench" / "results" / "report.json")])
    printed = capsys.readouterr().out
    assert printed[printed.index("| signal") :].strip() in (ROOT / "docs" / "operations" / "autoscaling.md").read_text()
