"""When each frame of a video is shown, and from where it can be decoded. Pure: it knows no file and no decoder."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The frames of a video in the order in which they are shown; times are in ticks.

    Attributes:
        ticks: the time at which each frame is first shown; ascending without repeats, never empty.
        keys: the times of the frames from which decoding can begin; ascending.
        origin: the time from which seconds count.
        end: the time until which the last frame is shown.
        tick_s: the duration of a tick, in seconds.
        is_counted: whether the file has no times, so that a frame's time follows from its number and the frame rate.
    """

    ticks: array[int]
    keys: array[int]
    origin: int
    end: int
    tick_s: Fraction
    is_counted: bool = False

    def every(self, every_s: float) -> array[int]:
        """The numbers of the frames that are shown at 0, `every_s`, 2 × `every_s` and so on; each frame once.

        At times before the first frame, that is the first frame.
        """
        step = Fraction(str(every_s)) / self.tick_s
        numbers, time = array("q"), 0
        while (tick := self.origin + math.floor(time * step + Fraction(1, 2))) < self.end:
            number = self.number(tick)
            numbers.append(number)
            if number + 1 == len(self.ticks):
                break
            # On to the first of these times at which the next frame is shown: a step for each frame, not for each time.
            time = math.ceil((self.ticks[number + 1] - self.origin - Fraction(1, 2)) / step)
        return numbers

    def time_s(self, number: int) -> float:
        """The time at which a frame is first shown, in seconds from the start of the video."""
        return float((self.ticks[number] - self.origin) * self.tick_s)

    def number(self, tick: int) -> int:
        """The number of the frame that is shown at that time; before the first one, that is the first."""
        return max(0, bisect_right(self.ticks, tick) - 1)

    def at(self, time_s: float) -> int:
        """The number of the frame that is shown at a time in seconds; the inverse of `time_s`, which is rounded."""
        return self.number(self.origin + round(Fraction(time_s) / self.tick_s))

    def key(self, tick: int) -> int | None:
        """The time of the last frame at or before `tick` from which decoding can begin; None if there is none."""
        index = bisect_right(self.keys, tick)
        return self.keys[index - 1] if index else None
