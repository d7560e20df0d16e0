"""Callers that never pause, rounds that take turns."""

import itertools
import threading
import time

import pytest
from report.rounds.rounds import run
from report.rounds.speed import Sample, drive, pace, repeat, whole_waves

SAMPLE = Sample(inputs_per_s=1.0, p50_ms=1.0, p99_ms=1.0, calls=1)


def test_only_whole_waves_count():
    """Two callers, two answers each second: the first wave starts the clock, half a wave at the end is cut off."""
    seen = [(1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 1.0), (3.0, 1.0), (3.0, 3.0), (4.0, 9.0)]
    sample = whole_waves(seen, 2)
    assert sample.inputs_per_s == pytest.approx(2.0)
    assert sample.calls == 4
    assert sample.p50_ms == pytest.approx(1000)
    assert sample.p99_ms == pytest.approx(2940)


def test_callers_send_all_images_at_the_same_time():
    """Each caller has its own thread, and together they send every image."""
    sent, threads, begun = set(), set(), threading.Barrier(3)

    def call(image):
        sent.add(image)
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            begun.wait(60)
        time.sleep(0.002)

    sample = drive(call, [b"a", b"b", b"c"], callers=3, seconds=0.05)
    assert sent == {b"a", b"b", b"c"}
    assert len(threads) == 3
    assert sample.calls >= 3


def test_a_call_that_fails_ends_the_measurement():
    """Its error is raised where the measurement was asked for."""

    def call(image):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        drive(call, [b"a"], callers=2, seconds=5.0)


def test_requests_at_a_rate_do_not_wait_for_answers():
    """All are sent in order; a request that is late because of others has the time of its delay, too."""
    sent, lock = [], threading.Lock()

    def call(text):
        sent.append(text)
        with lock:  # a server that answers one at a time
            time.sleep(0.01)

    sample = pace(call, ["a", "b"], rate=1000.0, seconds=0.02)
    assert sorted(sent) == ["a"] * 10 + ["b"] * 10
    assert sample.calls == 20
    assert sample.p50_ms > 50
    with pytest.raises(ValueError, match="no"):
        pace(lambda text: (_ for _ in ()).throw(ValueError("no")), ["a"], rate=10.0, seconds=0.1)


def test_a_slow_call_is_made_once():
    """Also where it takes longer than it may."""
    assert repeat(lambda: time.sleep(0.02), 8, 0.001).calls == 1


def measurements(calls):
    """Three, which note that they were called."""
    return {name: lambda name=name: calls.append(name) or SAMPLE for name in "abc"}


def test_every_second_round_is_backwards():
    """What drifts hits the first and the last alike."""
    calls, rounds = [], []
    run(measurements(calls), rounds, {}, most=3, allowed_s=lambda: 1e9, say=lambda text: None)
    assert "".join(calls) == "abccbaabc"
    assert [sorted(entry) for entry in rounds] == [["a", "b", "c"]] * 3


def test_rounds_end_when_there_is_no_time_for_another():
    """The first is made in any case."""
    rounds = []
    run(measurements([]), rounds, {}, most=5, allowed_s=lambda: -1.0, say=lambda text: None)
    assert len(rounds) == 1


def test_what_fails_is_left_out():
    """Its reason is kept, and the others go on."""
    rounds, failed = [], {}

    def broken():
        raise RuntimeError("gone")

    known = {**measurements([]), "d": broken}
    run(known, rounds, failed, most=2, allowed_s=lambda: 1e9, say=lambda text: None)
    assert failed == {"d": "RuntimeError: gone"}
    assert [sorted(entry) for entry in rounds] == [["a", "b", "c"]] * 2


def test_an_interruption_keeps_what_was_measured():
    """Also in the middle of a round."""
    rounds, number = [], itertools.count()

    def interrupted():
        if next(number) == 1:
            raise KeyboardInterrupt
        return SAMPLE

    with pytest.raises(KeyboardInterrupt):
        run(
            {"a": lambda: SAMPLE, "b": interrupted, "c": lambda: SAMPLE},
            rounds,
            {},
            most=5,
            allowed_s=lambda: 1e9,
            say=print,
        )
    assert [sorted(entry) for entry in rounds] == [["a", "b", "c"], ["c"]]
