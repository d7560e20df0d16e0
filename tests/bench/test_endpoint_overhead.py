"""bench/endpoint_overhead.py, for tenths of a second: it measures both sides, and prints its lines."""

import re

import endpoint_overhead
import pytest

pytestmark = pytest.mark.usefixtures("subprocesses")
RATES = r"native [\d.]+ requests/s, endpoint [\d.]+: [\d.]+ x \(.*\); CPU ms/image: [\d.]+ and [\d.]+"


def test_a_short_run(capsys):
    """A line for each number of callers, and the shares of base64 and JSON."""
    endpoint_overhead.main(["--rounds", "1", "--seconds", "0.3", "--callers", "1,4"])
    first, second, *shares = capsys.readouterr().out.splitlines()
    assert re.fullmatch(f"noop,  1 callers: {RATES}", first)
    assert re.fullmatch(f"noop,  4 callers: {RATES}", second)
    names = [share.partition(":")[0] for share in shares]
    assert names == ["JSON of the request", "the answer", "base64 and the dialect"]
