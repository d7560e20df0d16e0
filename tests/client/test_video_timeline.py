"""Which frames are shown at which times, and where scenes begin: tables without a file."""

from array import array
from fractions import Fraction

import numpy as np
import pytest
from support import films
from vitriton._video.frame import square
from vitriton._video.scenes import Cuts
from vitriton._video.timeline import Timeline


def timeline(ticks, *, keys=(0,), origin=0, end=None, tick_s=Fraction(1, 1000)):
    return Timeline(
        ticks=array("q", ticks), keys=array("q", keys), origin=origin, end=end or ticks[-1] + 40, tick_s=tick_s
    )


@pytest.mark.parametrize(
    ("ticks", "every_s", "numbers"),
    [
        (range(0, 4000, 40), 1, [0, 25, 50, 75]),
        (range(0, 4040, 40), 1, [0, 25, 50, 75, 100]),  # 4 s is the last frame's time
        (range(0, 4000, 40), 0.04, list(range(100))),
        (range(0, 4000, 40), 0.0001, list(range(100))),
        (range(0, 4000, 40), 1e-12, list(range(100))),
        (range(0, 4000, 40), 3600, [0]),
        (range(0, 4000, 40), 0.1, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, *range(25, 100, 5), *range(27, 100, 5)]),
        ([0, 2500, 2540, 7000], 1, [0, 2, 3]),  # a frame is yielded once
        ([500, 600, 2600, 3100], 1, [0, 1, 2]),  # the first frame where none is shown yet
        ([0], 1, [0]),
        ([0, 999, 1000], 1, [0, 2]),
    ],
)
def test_every(ticks, every_s, numbers):
    """The last frame that begins at or before each time."""
    assert list(timeline(list(ticks)).every(every_s)) == sorted(numbers)


@pytest.mark.parametrize("seed", range(20))
def test_every_is_what_the_slow_way_finds(seed):
    """At random times, whatever the distance."""
    random = np.random.default_rng(seed)
    ticks = np.cumsum(random.integers(1, 3000, 60)).tolist()
    times_s = [tick / 1000 for tick in ticks]
    for every_s in (0.01, 0.3, 1, 2.5, 40):
        found = list(timeline(ticks).every(every_s))
        assert found == films.shown(times_s, every_s, (ticks[-1] + 40) / 1000), every_s


def test_times_that_begin_elsewhere():
    """Seconds count from the origin, which may be negative; ticks need not divide a second."""
    given = timeline(range(-1001, 30 * 1001, 1001), origin=-1001, tick_s=Fraction(1, 30000))
    assert list(given.every(0.5)) == [0, 14, 29]
    assert given.time_s(0) == 0
    assert given.time_s(30) == pytest.approx(30 * 1001 / 30000)
    assert given.number(-1001 + 5 * 1001) == 5


def test_a_time_leads_back_to_its_frame():
    """Times are rounded to floats, and a tick is not."""
    given = timeline(range(500, 500 + 1001 * 400, 1001), origin=500, tick_s=Fraction(1, 30_000))
    assert [given.at(given.time_s(number)) for number in range(400)] == list(range(400))
    assert [given.at(-1.0), given.at(0.02), given.at(1e6)] == [0, 0, 399]


def test_keys():
    """Decoding begins at the last key frame that is not later."""
    given = timeline(range(0, 400, 40), keys=(0, 80, 240))
    assert [given.key(tick) for tick in (-1, 0, 79, 80, 239, 1000)] == [None, 0, 0, 80, 80, 240]


def test_square_pixels():
    """The shorter side of a pixel is stretched; an aspect that no camera has is not believed."""
    assert square(720, 576, Fraction(16, 15)) == (768, 576)
    assert square(720, 480, Fraction(8, 9)) == (720, 540)
    assert square(720, 480, None) == square(720, 480, Fraction(1, 1000)) == square(720, 480, Fraction(0)) == (720, 480)


def test_cuts():
    """A scene begins with a sudden change, and not with each frame of a fast motion or with flicker."""
    random = np.random.default_rng(0)
    scenes = [random.integers(0, 256, (36, 64), np.uint8) for _ in range(3)]
    dark, light = np.zeros((36, 64), np.uint8), np.full((36, 64), 200, np.uint8)
    cuts = Cuts()
    first = [cuts.is_first(frame) for frame in [scenes[0]] * 3 + [scenes[1]] * 3 + [scenes[2]] + [scenes[0]]]
    assert first == [True, False, False, True, False, False, True, False]
    cuts = Cuts()
    assert [cuts.is_first(frame) for frame in [dark, light] * 3] == [True, True, False, False, False, False]
